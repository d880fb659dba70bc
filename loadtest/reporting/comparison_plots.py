"""Plots of a comparison's speeds and of its acceptance.

Owns what is drawn of which cells. Refuses to own drawing (drawing.py), latencies (latency_plots.py) and which cells are
results (comparison_view.py, which passes those: `quiet`).
"""

from collections.abc import Iterable, Sequence

from loadtest.comparison import ALL, Cell, Comparison, Measured
from loadtest.record import Acceptance
from loadtest.reporting.content import Axis, Plot, Point, Series, Table
from loadtest.reporting.figures import UNKNOWN, figure, share, with_interval
from loadtest.reporting.pooled import Sides, pooled_tau, pooled_throughput, whole_sizes


def sizes_axis(batch_sizes: Iterable[int]) -> Axis:
    """Of batch sizes: doubling is a step."""
    return Axis("batch size", "log", ticks=tuple(sorted(set(batch_sizes))))


def speedup(comparison: Comparison, quiet: Sequence[Cell], sides: Sides) -> Plot:
    """By batch size and task, with the geometric mean of the tasks."""
    tasks = [task.name for task in comparison.workload.tasks]
    series = [
        Series(task, index, tuple(Point.of(cell.batch_size, cell.speedup) for cell in quiet if cell.task == task))
        for index, task in enumerate(tasks, 1)
    ]
    rows = [
        (str(cell.batch_size), cell.task, with_interval(cell.speedup) if cell.quiet else "too noisy", share(cell.noise))
        for cell in comparison.cells
    ]
    if len(tasks) > 1:
        whole = whole_sizes(comparison, quiet)
        overall = [each for each in comparison.overall if each.batch_size in whole]
        series.append(
            Series("geometric mean", 0, tuple(Point.of(each.batch_size, each.speedup) for each in overall), dashed=True)
        )
        rows += [(str(each.batch_size), ALL, with_interval(each.speedup), UNKNOWN) for each in overall]
    return Plot(
        "speedup",
        "Speedup",
        sizes_axis(cell.batch_size for cell in comparison.cells),
        Axis("speedup"),
        tuple(series),
        Table(
            f"Throughput of {sides.a} over that of {sides.b}, with its 95% interval; noise is the coefficient of "
            "variation of the rounds' ratios",
            ("batch size", "task", "speedup", "noise"),
            tuple(rows),
        ),
        level=1.0,
    )


def throughput(comparison: Comparison, quiet: Sequence[Cell], sides: Sides) -> Plot:
    """By batch size, of both sides; of several tasks their geometric mean."""
    by_side = [pooled_throughput(comparison, quiet, side) for side in ("a", "b")]
    mean = " (geometric mean of the tasks)" if len(comparison.workload.tasks) > 1 else ""
    rows = [
        (str(cell.batch_size), cell.task, *(_rounds(side) for side in (cell.a, cell.b)))
        for cell in comparison.cells
        if cell.quiet
    ]
    if mean:
        rows += [(str(size), ALL, *(with_interval(each[size]) for each in by_side)) for size in by_side[0]]
    series = [
        Series(name, colour, tuple(Point.of(size, found) for size, found in each.items()))
        for name, colour, each in ((sides.a, 1, by_side[0]), (sides.b, 0, by_side[1]))
    ]
    return Plot(
        "throughput",
        "Throughput",
        sizes_axis(cell.batch_size for cell in comparison.cells),
        Axis("tokens per second", least=0),
        tuple(series),
        Table(
            "Tokens per second of the whole batch: median, least and largest round; of all tasks the geometric mean "
            "with its 95% interval",
            ("batch size", "task", sides.a, sides.b),
            tuple(rows),
        ),
        notes=(f"Tokens per second of the whole batch{mean}, with 95% intervals over the rounds.",),
    )


def _rounds(side: Measured) -> str:
    if not side.rounds:
        return figure(side.tokens_per_s)
    return f"{figure(side.tokens_per_s)} ({figure(min(side.rounds))} to {figure(max(side.rounds))})"


def acceptance_length(comparison: Comparison, sides: Sides) -> Plot:
    """Tau by task, over all batch sizes."""
    tasks = tuple(task.name for task in comparison.workload.tasks)
    series, rows = [], []
    for name, colour, side in ((sides.a, 1, "a"), (sides.b, 2, "b")):
        taus = [pooled_tau([getattr(cell, side) for cell in comparison.cells if cell.task == task]) for task in tasks]
        if any(taus):
            points = tuple(Point(place, tau) for place, tau in enumerate(taus) if tau)
            series.append(Series(name, colour, points))
            rows += [(task, name, "all", figure(tau)) for task, tau in zip(tasks, taus, strict=True)]
            rows += [
                (cell.task, name, str(cell.batch_size), figure(getattr(cell, side).acceptance_length))
                for cell in comparison.cells
            ]
    return Plot(
        "acceptance-length",
        "Acceptance length by task",
        Axis("task"),
        Axis("tau: tokens per verify pass", least=1),
        tuple(series),
        Table("Acceptance length (tau)", ("task", "side", "batch size", "tau"), tuple(rows)),
        categories=tasks,
    )


def accepted(comparison: Comparison, sides: Sides) -> Plot:
    """Of chains n-alpha, of trees the share of passes that accepted the n-th draft; by task, over all batch sizes."""
    drafting = [
        (name, side, described.tree)
        for name, side, described in ((sides.a, "a", comparison.a), (sides.b, "b", comparison.b))
        if any(getattr(cell, side).accepted_by_position for cell in comparison.cells)
    ]
    chains = all(tree and tree.split("/")[1:2] == ["1"] for _, _, tree in drafting)
    series, rows = [], []
    for name, side, _ in drafting:
        for colour, task in enumerate((task.name for task in comparison.workload.tasks), 1):
            shares = _shares([getattr(cell, side) for cell in comparison.cells if cell.task == task], chains=chains)
            label = task if len(drafting) == 1 else f"{task}, {name}"
            points = tuple(Point(place, share) for place, share in enumerate(shares, 0 if chains else 1))
            series.append(Series(label, colour, points, dashed=side == "b"))
            rows += [(task, name, f"{point.x:.0f}", f"{point.y:.3f}") for point in points]
    longest = max((len(each.points) for each in series), default=0)
    ticks = tuple(range(longest)) if chains else tuple(range(1, longest + 1))
    title = "n-alpha" if chains else "Accepted drafts by position"
    what = "of the passes that accepted n drafts, those that accepted the next" if chains else "of all verify passes"
    return Plot(
        "n-alpha" if chains else "accepted-by-position",
        title,
        Axis("n" if chains else "position of the draft", ticks=ticks),
        Axis("n-alpha" if chains else "share of passes", least=0, most=1),
        tuple(series),
        Table(f"{title}: share {what}", ("task", "side", "n", "share"), tuple(rows)),
        notes=(f"The share {what}.",),
    )


def _shares(measured: Sequence[Measured], *, chains: bool) -> Sequence[float]:
    total = Acceptance.total(
        Acceptance(0, each.verify_passes, each.accepted_by_position) for each in measured if each.verify_passes
    )
    if total is None:
        return ()
    if chains:
        return total.alphas
    return tuple(count / total.verify_passes for count in total.accepted_by_position)
