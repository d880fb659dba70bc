"""A baseline curve as a report: what the baseline does by batch size, and what speculation gains over it.

Owns its words and plots. Refuses to own drawing (drawing.py).
"""

from collections.abc import Iterator

from loadtest.curve import BaselinePoint, Curve, Speculative
from loadtest.reporting import reservations
from loadtest.reporting.comparison_plots import sizes_axis
from loadtest.reporting.content import Axis, Content, Plot, Point, Series, Table
from loadtest.reporting.figures import UNKNOWN, figure, milliseconds, with_interval
from loadtest.reporting.provenance import of_document
from loadtest.stats import Estimate

_BASELINE = "baseline"


def content(curve: Curve) -> Content:
    """The report."""
    valid, work = curve.valid_for, curve.workload
    return Content(
        title=f"Baseline curve of {valid.model}",
        subtitle=f"SGLang {valid.sglang_version}, {valid.hardware} ({valid.device}, {valid.flags.dtype}); temperature "
        f"{work.temperature:g}, {work.max_tokens} tokens at most, {work.rounds} rounds",
        warnings=tuple(reservations.of_curve(curve)),
        table=_table(curve),
        plots=tuple(_plots(curve)),
        provenance=(
            *of_document(curve),
            ("Hardware", valid.hardware),
            ("Model", valid.model),
            (f"Prompts: {work.prompts}", f"SHA-256 {work.prompts_sha256}"),
        ),
    )


def _table(curve: Curve) -> Table:
    gained = {point.batch_size: point for point in curve.speculative.points} if curve.speculative else {}
    rows = []
    for point in curve.baseline:
        row = [str(point.batch_size), with_interval(_throughput(point)), milliseconds(point.step_s)]
        if gain := gained.get(point.batch_size):
            row += [figure(gain.tokens_per_s), figure(gain.acceptance_length), milliseconds(gain.cycle_s)]
            row += [figure(gain.break_even_acceptance_length)]
            row += [with_interval(Estimate(gain.speedup, gain.low, gain.high))]
        rows.append((*row, *[UNKNOWN] * (8 - len(row))) if gained else tuple(row))
    heads = ("batch size", "baseline tok/s", "step ms")
    more = ("speculative tok/s", "tau", "cycle ms", "break-even tau", "speedup") if gained else ()
    return Table("By batch size, with 95% intervals", heads + more, tuple(rows))


def _throughput(point: BaselinePoint) -> Estimate:
    return Estimate(point.tokens_per_s, point.low, point.high)


def _plots(curve: Curve) -> Iterator[Plot]:
    sizes = sizes_axis(point.batch_size for point in curve.baseline)
    speeds = [Series(_BASELINE, 0, tuple(Point.of(point.batch_size, _throughput(point)) for point in curve.baseline))]
    times = [Series(f"{_BASELINE}: step", 0, tuple(Point(p.batch_size, p.step_s * 1000) for p in curve.baseline))]
    if (gained := curve.speculative) is not None:
        name = f"{gained.algorithm} {gained.tree}"
        speeds.insert(0, Series(name, 1, tuple(Point(p.batch_size, p.tokens_per_s) for p in gained.points)))
        times.insert(
            0, Series(f"{name}: cycle", 1, tuple(Point(p.batch_size, p.cycle_s * 1000) for p in gained.points))
        )
        yield from _gains(gained, sizes)
    table = _table(curve)
    yield Plot("throughput", "Throughput", sizes, Axis("tokens per second", least=0), tuple(speeds), table)
    yield Plot("time", "Step and cycle time", sizes, Axis("milliseconds", least=0), tuple(times), table)
    yield _latency_against_throughput(curve)


def _gains(gained: Speculative, sizes: Axis) -> Iterator[Plot]:
    name = f"{gained.algorithm} {gained.tree}"
    speedups = tuple(Point.of(p.batch_size, Estimate(p.speedup, p.low, p.high)) for p in gained.points)
    yield Plot(
        "speedup",
        "Speedup",
        sizes,
        Axis("speedup"),
        (Series(name, 1, speedups),),
        Table(
            "Speedup with its 95% interval",
            ("batch size", "speedup"),
            tuple((str(p.batch_size), with_interval(Estimate(p.speedup, p.low, p.high))) for p in gained.points),
        ),
        level=1.0,
    )
    yield Plot(
        "acceptance-length",
        "Acceptance length and its break-even",
        sizes,
        Axis("tau: tokens per verify pass", least=1),
        (
            Series("measured", 1, tuple(Point(p.batch_size, p.acceptance_length) for p in gained.points)),
            Series(
                "break-even",
                0,
                tuple(Point(p.batch_size, p.break_even_acceptance_length) for p in gained.points),
                dashed=True,
            ),
        ),
        Table(
            "Acceptance length (tau), and the one from which on speculation pays",
            ("batch size", "measured", "break-even"),
            tuple(
                (str(p.batch_size), figure(p.acceptance_length), figure(p.break_even_acceptance_length))
                for p in gained.points
            ),
        ),
    )


def _latency_against_throughput(curve: Curve) -> Plot:
    rows = [(_BASELINE, p.batch_size, p.tokens_per_s, p.step_s) for p in curve.baseline]
    if (gained := curve.speculative) is not None:
        name = f"{gained.algorithm} {gained.tree}"
        rows += [(name, p.batch_size, p.tokens_per_s, p.cycle_s / p.acceptance_length) for p in gained.points]
    series = tuple(
        Series(side, colour, tuple(Point(x, s * 1000, label=str(size)) for name, size, x, s in rows if name == side))
        for colour, side in enumerate(dict.fromkeys(row[0] for row in rows))
    )
    return Plot(
        "latency-against-throughput",
        "Latency against throughput",
        Axis("tokens per second of the whole batch", least=0),
        Axis("ms per output token", least=0),
        series,
        Table(
            "Mean time per output token while all decode, by batch size",
            ("side", "batch size", "tokens per second", "ms per output token"),
            tuple((name, str(size), figure(speed), milliseconds(token_s)) for name, size, speed, token_s in rows),
        ),
        notes=("A point a batch size, named beside it; further right and further down is better.",),
    )
