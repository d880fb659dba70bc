"""A comparison as a report: what is a result, what is none, and the tables and plots of it.

Owns which cells may be drawn and the words on them. Refuses to own single plots (comparison_plots.py). A cell that was
measured on a restless machine has its ratio in no table and its times in no plot.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.comparison import Cell, Comparison, Described
from loadtest.reporting import comparison_plots, latencies, latency_plots, reservations
from loadtest.reporting.content import Content, Plot, Table
from loadtest.reporting.figures import UNKNOWN, figure, with_interval
from loadtest.reporting.latencies import NAMES, Latencies
from loadtest.reporting.pooled import Side, Sides, pooled_tau, pooled_throughput
from loadtest.reporting.provenance import of_document

TOO_NOISY = "too noisy: no result"
_LACKING = "not every task was measured"


def content(comparison: Comparison, raw: Path | None = None) -> Content:
    """The report; with the raw lines, latencies are those of every request.

    Raises:
        DocumentError: the raw lines cannot be read, or are of another comparison.
    """
    quiet = [cell for cell in comparison.cells if cell.quiet]
    found = latencies.of_raw(raw, quiet) if raw else latencies.of_quantiles(comparison, quiet)
    sides = Sides.of(comparison)
    return Content(
        title=f"{sides.a} against {sides.b}",
        subtitle=f"{comparison.model}, {comparison.hardware}; {_asked(comparison)}",
        warnings=tuple(reservations.of_comparison(comparison)),
        table=_table(comparison, sides),
        plots=tuple(_plots(comparison, quiet, found, sides)),
        provenance=tuple(_provenance(comparison)),
        notes=tuple(_notes(comparison)),
    )


def _table(comparison: Comparison, sides: Sides) -> Table:
    tasks = len(comparison.workload.tasks)
    of = f", geometric means of {tasks} tasks; every task by itself is under the plots" if tasks > 1 else ""
    return Table(
        f"Speedup of {sides.a} over {sides.b} with its 95% interval, and tokens per second of the whole batch{of}",
        ("batch size", "speedup", f"{sides.a} tok/s", f"{sides.b} tok/s", "tau"),
        tuple(_rows(comparison, ("a", "b"))),
    )


def _plots(comparison: Comparison, quiet: Sequence[Cell], found: Latencies, sides: Sides) -> Iterator[Plot]:
    """Those that the figures allow."""
    yield comparison_plots.speedup(comparison, quiet, sides)
    yield comparison_plots.throughput(comparison, quiet, sides)
    measured = [side for cell in comparison.cells for side in (cell.a, cell.b)]
    if any(side.acceptance_length for side in measured):
        yield comparison_plots.acceptance_length(comparison, sides)
    if any(side.accepted_by_position for side in measured):
        yield comparison_plots.accepted(comparison, sides)
    told = {metric for _, _, metric in found.samples}
    for metric in NAMES:
        if metric in told:
            yield latency_plots.distribution(metric, found, sides)
    if "tpot_s" in told:
        yield latency_plots.latency_against_throughput(comparison, quiet, found, sides)


def _asked(comparison: Comparison) -> str:
    work = comparison.workload
    return f"temperature {work.temperature:g}, {work.max_tokens} tokens at most, {work.rounds} rounds in turns"


def _notes(comparison: Comparison) -> Iterator[str]:
    if (same := comparison.same_text) is not None:
        yield f"Greedy answers: {same.same} of {same.compared} the same, {same.alike} but for numerics."


def _rows(comparison: Comparison, sides: Sequence[Side]) -> Iterator[tuple[str, ...]]:
    """Of every batch size, over all tasks."""
    quiet = [cell for cell in comparison.cells if cell.quiet]
    speeds = [pooled_throughput(comparison, quiet, side) for side in sides]
    speedups = {each.batch_size: each.speedup for each in comparison.overall}
    for size in sorted({cell.batch_size for cell in comparison.cells}):
        here = [cell for cell in comparison.cells if cell.batch_size == size]
        speedup = with_interval(speedups[size]) if size in speedups else _LACKING
        if not all(cell.quiet for cell in here):
            speedup = TOO_NOISY
        tokens_per_s = [figure(each[size].value) if size in each else UNKNOWN for each in speeds]
        yield (str(size), speedup, *tokens_per_s, figure(pooled_tau([cell.a for cell in here])))


def _provenance(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield from of_document(comparison)
    yield "Hardware", comparison.hardware
    yield "Model", comparison.model
    for name, side in (("Side a", comparison.a), ("Side b", comparison.b)):
        yield name, _described(side)
    for task in comparison.workload.tasks:
        yield f"Prompts: {task.name}", f"SHA-256 {task.sha256}"


def _described(side: Described) -> str:
    if side.sglang_version is None:
        return side.endpoint
    drafting = f"{side.algorithm} {side.tree}" if side.algorithm else "plain decoding"
    return f"{side.endpoint}: SGLang {side.sglang_version} on {side.device}, {drafting}"
