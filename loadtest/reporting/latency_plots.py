"""Plots of a comparison's latencies: how they are distributed, and what throughput costs in them.

Owns what is drawn. Refuses to own drawing (drawing.py) and the distributions (latencies.py).
"""

from collections.abc import Sequence

from loadtest.comparison import Cell, Comparison
from loadtest.reporting.content import Axis, Plot, Point, Series, Table, wide_scale
from loadtest.reporting.figures import figure, milliseconds
from loadtest.reporting.latencies import NAMES, Latencies, Metric
from loadtest.reporting.pooled import Sides, pooled_throughput

_DRAWN_SIZES = 3
"""Batch sizes in a plot of distributions: the first, the last and one between."""
_MIDDLE = 50


def distribution(metric: Metric, found: Latencies, sides: Sides) -> Plot:
    """The share of requests that took no longer; both sides, at a few batch sizes."""
    sizes = sorted({size for _, size, kind in found.samples if kind == metric})
    drawn = sizes if len(sizes) <= _DRAWN_SIZES else [sizes[0], sizes[(len(sizes) - 1) // 2], sizes[-1]]
    series, rows = [], []
    for size in sizes:
        for side, name in zip(("a", "b"), sides, strict=True):
            sample = found.samples.get((side, size, metric))
            if sample is None:
                continue
            rows.append((str(size), name, *(milliseconds(sample.at(p)) for p in (0, _MIDDLE, 90, found.tail, 100))))
            if size in drawn:
                points = tuple(Point(seconds * 1000, share) for seconds, share in sample.curve())
                label = f"{name}, batch size {size}"
                series.append(Series(label, drawn.index(size) + 1, points, dashed=side == "b", marked=False))
    title = NAMES[metric].capitalize()
    heads = ("batch size", "side", "least", "p50", "p90", f"p{found.tail}", "largest")
    few = f" Drawn at {', '.join(map(str, drawn))} of {len(sizes)} batch sizes." if len(drawn) < len(sizes) else ""
    return Plot(
        metric.removesuffix("_s"),
        title,
        Axis("milliseconds", wide_scale([point.x for each in series for point in each.points])),
        Axis("share of requests, %", least=0, most=100),
        tuple(series),
        Table(f"{title} in milliseconds", heads, tuple(rows)),
        notes=(found.source + few,),
    )


def latency_against_throughput(comparison: Comparison, quiet: Sequence[Cell], found: Latencies, sides: Sides) -> Plot:
    """Time per output token against throughput, a point a batch size."""
    series, rows = [], []
    for side, name, colour in (("a", sides.a, 1), ("b", sides.b, 0)):
        speeds = pooled_throughput(comparison, quiet, "a" if side == "a" else "b")
        samples = {size: found.samples.get((side, size, "tpot_s")) for size in speeds}
        for percent in (_MIDDLE, found.tail):
            points = tuple(
                Point(speeds[size].value, sample.at(percent) * 1000, label=str(size) if percent == _MIDDLE else "")
                for size, sample in samples.items()
                if sample
            )
            series.append(Series(f"{name}, p{percent}", colour, points, dashed=percent != _MIDDLE))
        rows += [
            (name, str(size), figure(speeds[size].value), *(milliseconds(sample.at(p)) for p in (_MIDDLE, found.tail)))
            for size, sample in samples.items()
            if sample
        ]
    times = [point.y for each in series for point in each.points]
    return Plot(
        "latency-against-throughput",
        "Latency against throughput",
        Axis("tokens per second of the whole batch", least=0),
        Axis("ms per output token", wide_scale(times), least=0),
        tuple(series),
        Table(
            "Time per output token in milliseconds, by batch size",
            ("side", "batch size", "tokens per second", "p50", f"p{found.tail}"),
            tuple(rows),
        ),
        notes=("A point a batch size, named beside it; further right and further down is better.",),
    )
