"""The repeated experiments as Markdown, beside the paper's numbers.

Owns the tables. A ratio of a restless machine is not shown. n-alpha has Wilson's 95% interval: passes are many.
"""

import math
import statistics
from collections.abc import Iterable, Sequence

from loadtest.comparison import Cell
from loadtest.paper.methods import TASKS, published
from loadtest.paper.results import Experiment, Paper
from loadtest.record import Acceptance

_Z = 1.96


def render(paper: Paper) -> str:
    """All tables, and what was not measured."""
    parts = [_origin(paper), _table_1(paper), _table_3(paper), _figure_7(paper), _not_measured(paper)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(paper: Paper) -> str:
    if not paper.experiments:
        return "Nothing was measured yet."
    first = paper.experiments[0].comparison
    return (
        f"{first.model}, SGLang {first.b.sglang_version or 'of an unknown version'}, {first.hardware}; "
        f"commit {(paper.commit or 'unknown')[:7]}, {paper.created:%Y-%m-%d}; {first.workload.rounds} rounds in turns, "
        f"{first.workload.max_tokens} tokens at most; `{' '.join(paper.argv)}`" + ("; PARTIAL" if paper.partial else "")
    )


def _table_1(paper: Paper) -> str:
    experiments = paper.of("table_1")
    if not experiments:
        return ""
    names = list(dict.fromkeys(cell.task for each in experiments for cell in each.comparison.cells))
    head = ["model", "method", "T", *names, "mean"]
    ours = [_measured_row(each, names) for each in experiments]
    theirs = [_published_row(row, names) for row in published()["table_1"]]
    title = "**Table 1**: speedup over plain decoding at batch size 1 (its interval), and acceptance length"
    return _markdown(f"{title}. *The paper's rows, on GPUs: {published()['source']}.*", [head, *ours, *theirs])


def _measured_row(each: Experiment, names: Sequence[str]) -> list[str]:
    cells = {cell.task: cell for cell in each.comparison.cells}
    ratios = [cell.speedup.value for cell in cells.values() if cell.quiet]
    taus = [cell.a.acceptance_length for cell in cells.values() if cell.a.acceptance_length]
    mean = f"{statistics.geometric_mean(ratios):.2f}" if len(ratios) == len(cells) else "-"
    mean += f", {statistics.fmean(taus):.2f}" if taus else ""
    told = [_cell(cells[name]) if name in cells else "" for name in names]
    return [each.comparison.model, each.method, f"{each.temperature:g}", *told, mean]


def _cell(cell: Cell) -> str:
    tau = cell.a.acceptance_length
    speed = cell.speedup.text() if cell.quiet else "too noisy"
    return f"{speed}, {tau:.2f}" if tau else speed


def _published_row(row: dict[str, str | float], names: Sequence[str]) -> list[str]:
    lengths: dict[str, object] = next(
        (each for each in published()["acceptance_length"] if (each["model"], each["method"]) == _who(row)), {}
    )
    told = [_published_cell(row.get(name), lengths.get(name)) for name in names]
    values = [float(row[name]) for name in TASKS]
    return [f"*{row['model']}*", f"*{row['method']}*", "*0*", *told, f"*{statistics.fmean(values):.2f}*"]


def _who(row: dict[str, str | float]) -> tuple[object, object]:
    return row["model"], row["method"]


def _published_cell(speed: object, tau: object) -> str:
    if not isinstance(speed, float):
        return ""
    return f"*{speed:.2f}, {tau:.2f}*" if isinstance(tau, float) else f"*{speed:.2f}*"


def _table_3(paper: Paper) -> str:
    experiments = paper.of("table_3")
    if not experiments:
        return ""
    ours, theirs = experiments[0].comparison, published()["table_3"]
    cells = {cell.batch_size: cell for each in experiments for cell in each.comparison.cells}
    sizes = sorted({*cells, *theirs["batch_sizes"]})
    told = {size: cell.speedup.text() if cell.quiet else "too noisy" for size, cell in cells.items()}
    rows = [[f"{experiments[0].method}, {ours.a.tree}", *(told.get(size, "") for size in sizes)]]
    for method in ("EAGLE", "EAGLE-3"):
        published_by_size = dict(zip(theirs["batch_sizes"], theirs[method], strict=True))
        values = (published_by_size.get(size) for size in sizes)
        rows.append([f"*{method}, the paper*", *(f"*{value:.2f}*" if value else "" for value in values)])
    title = (
        f"**Table 3**: throughput over plain decoding by batch size, {ours.workload.tasks[0].name}. "
        f"*The paper's: {theirs['where']}.*"
    )
    return _markdown(title, [["batch size", *map(str, sizes)], *rows])


def _figure_7(paper: Paper) -> str:
    experiments = paper.of("figure_7")
    if not experiments:
        return ""
    rows = []
    for each in experiments:
        for name, acceptance in _acceptances(each.comparison.cells):
            rows.append([name, *_alphas(acceptance)])
    width = max(map(len, rows))
    head = ["task", *(f"{n}-alpha" for n in range(width - 1))]
    rows = [row + [""] * (width - len(row)) for row in rows]
    return _markdown(f"**Figure 7**: n-alpha on a chain ({experiments[0].comparison.a.tree}), greedy", [head, *rows])


def _acceptances(cells: Sequence[Cell]) -> Iterable[tuple[str, Acceptance]]:
    told = [(cell.task, Acceptance(0, cell.a.verify_passes or 0, cell.a.accepted_by_position)) for cell in cells]
    yield from told
    total = Acceptance.total(acceptance for _, acceptance in told)
    if total and len(told) > 1:
        yield "all", total


def _alphas(acceptance: Acceptance) -> Iterable[str]:
    counts = (acceptance.verify_passes, *acceptance.accepted_by_position)
    for alpha, passes in zip(acceptance.alphas, counts, strict=False):
        low, high = wilson(alpha, passes)
        yield f"{alpha:.2f} ({low:.2f} to {high:.2f})"


def wilson(share: float, of: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    middle = (share + _Z**2 / (2 * of)) / (1 + _Z**2 / of)
    half = _Z / (1 + _Z**2 / of) * math.sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _not_measured(paper: Paper) -> str:
    lines = [f"- {method}: {reason}" for method, reason in paper.not_measured.items()]
    return "\n".join(["Not measured here:", "", *lines]) if lines else ""


def _markdown(title: str, rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([title, "", head, "|---" * len(rows[0]) + "|", *rest])
