"""A plan, and the check against what others published, as tables for people.

Owns their looks: aligned text for a terminal, Markdown for documents. Refuses to own the figures.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median

from loadtest.planning.planned import Band, Planned, Row
from loadtest.planning.published import Point, Published
from loadtest.planning.roofline import Constants
from loadtest.table import aligned

_TITLES = (
    "GPU", "tp", "tree", "tau", "replicas", "GPUs", "batch", "used",
    "TTFT ms p50", "p99", "TPOT ms p50", "p99", "GPU-h/M", "USD/M",
)  # fmt: skip
_SIZING = (
    "GPU", "tp", "tree", "replicas", "most requests/s a replica", "TTFT p99 ms", "TPOT p99 ms",
    "GPU-hours per million answer tokens",
)  # fmt: skip
_UNITS = {"tokens_per_s": "tokens/s", "speedup": "speedup", "step_ms": "step, ms", "cycle_ms": "cycle, ms"}


def render(planned: Planned) -> str:
    """For a terminal."""
    asked = planned.asked
    wanted = [
        f"{name} at most {most:g} ms (p99)" for name, most in (("TTFT", asked.ttft_ms), ("TPOT", asked.tpot_ms)) if most
    ]
    head = [
        f"{asked.model} ({asked.precision}): {asked.rate_per_s:g} requests/s of {asked.prompt_tokens} prompt and "
        f"{asked.answer_tokens} answer tokens" + "".join(f", {part}" for part in wanted),
        f"constants from {planned.constants_from}; a replica is used to {asked.utilisation:.0%} at most",
    ]
    table = aligned([_TITLES, *map(_cells, planned.rows)])
    return "\n".join([*head, "", *table, "", *_savings(planned.rows), *_bands(planned), *planned.notes]).rstrip()


def markdown(planned: Planned) -> str:
    """The sizing table of a deployment guide."""
    asked = planned.asked
    rows = [
        (
            row.gpu, row.tp, row.tree, row.replicas, f"{row.limit_per_s:g}", f"{row.ttft_ms.p99:.0f}",
            f"{row.tpot_ms.p99:.1f}", f"{row.gpu_hours_per_million:g}",
        )
        for row in planned.rows
    ]  # fmt: skip
    caption = (
        f"{asked.model} ({asked.precision}), {asked.rate_per_s:g} requests/s of {asked.prompt_tokens} prompt and "
        f"{asked.answer_tokens} answer tokens; predicted, not measured: `{' '.join(planned.argv)}`"
    )
    return "\n".join([caption, "", *_markdown_table(_SIZING, rows), ""])


def published_table(published: Published, constants: Constants) -> str:
    """Every published point beside the model's value, as Markdown, with the median error of each group at the end."""
    rows = [
        (
            point.source, point.use, _where(point), _UNITS[point.quantity], f"{point.value:g}",
            f"{point.predicted(constants):.3g}", f"{point.error(constants):+.1%}",
        )
        for point in published.points
    ]  # fmt: skip
    lines = _markdown_table(("source", "use", "case", "quantity", "published", "model", "error"), rows)
    return "\n".join([*lines, "", *_medians(published.points, constants)])


def _medians(points: Sequence[Point], constants: Constants) -> Iterator[str]:
    for use in ("fit", "test"):
        errors = [abs(point.error(constants)) for point in points if point.use == use]
        yield f"{use}: {len(errors)} points, median error {median(errors):.1%}, largest {max(errors):.1%}"


def _where(point: Point) -> str:
    tree = f", {point.tree}" if point.tree else ""
    tau = f", tau {point.tau:g}" if point.tau else ""
    fp8 = " fp8" if point.precision == "fp8" else ""
    return f"{point.model}{fp8}, {point.gpu} x{point.tp}, batch {point.batch:g}{tree}{tau}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.gpu, str(row.tp), row.tree, f"{row.tau:.2f}", str(row.replicas), str(row.gpus), f"{row.batch:.1f}",
        f"{row.utilisation:.0%}", f"{row.ttft_ms.p50:.0f}", f"{row.ttft_ms.p99:.0f}", f"{row.tpot_ms.p50:.1f}",
        f"{row.tpot_ms.p99:.1f}", f"{row.gpu_hours_per_million:.3g}",
        "-" if row.usd_per_million is None else f"{row.usd_per_million:.3g}",
    )  # fmt: skip


def _savings(rows: Sequence[Row]) -> Iterator[str]:
    """What speculation saves on each GPU, in a line."""
    for gpu, group in groupby(rows, key=lambda row: row.gpu):
        pair = list(group)
        if len(pair) == 2:
            plain, tree = pair
            saved = 1 - tree.gpu_hours_per_million / plain.gpu_hours_per_million
            verb = (
                f"saves {saved:.0%} of the GPU-hours"
                if saved > 0
                else f"costs {-saved:.0%} more GPU-hours"
                if saved
                else "saves no GPU"
            )
            yield f"{gpu}: {tree.tree} {verb}, TPOT {plain.tpot_ms.p50:.1f} -> {tree.tpot_ms.p50:.1f} ms"
    priced = [row for row in rows if row.usd_per_million is not None]
    if priced:
        best = min(priced, key=lambda row: row.usd_per_million or 0)
        yield f"cheapest at these prices: {best.gpu}, tp {best.tp}, {best.replicas} replicas, tree {best.tree}"


def _bands(planned: Planned) -> Iterator[str]:
    """A line of bands for each GPU."""
    for entry in planned.bands:
        yield f"{entry.gpu}, tp {entry.tp}, fastest by batch size: " + ", ".join(map(_band, entry.bands))


def _band(band: Band) -> str:
    sizes = f"{band.first}" if band.first == band.last else f"{band.first} to {band.last}"
    return f"{sizes}: {band.tree} ({band.speedup_first:.2f}x to {band.speedup_last:.2f}x)"


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
