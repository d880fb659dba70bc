"""The repeated experiments as Markdown, beside the paper's numbers.

Owns the tables. A ratio of a restless machine is not shown. n-alpha has Wilson's 95% interval over passes that differ.
"""

import statistics
from collections.abc import Iterable, Sequence

from loadtest.comparison import Cell
from loadtest.paper.methods import published
from loadtest.paper.results import Experiment, Paper
from loadtest.record import Acceptance
from loadtest.stats import wilson


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
    source = f"*The paper's rows, on GPUs, at temperature 0 only: {published()['source']}.*"
    return _markdown(f"{title}. {source}", [head, *ours, *theirs]) + _differences(experiments)


def _measured_row(each: Experiment, names: Sequence[str]) -> list[str]:
    cells = {cell.task: cell for cell in each.comparison.cells}
    told = [_cell(cells[name]) if name in cells else "" for name in names]
    of_all = [cells.get(name) for name in names]
    speedup = _mean(cell.speedup.value if cell and cell.quiet else None for cell in of_all)
    tau = _mean(cell.a.acceptance_length if cell else None for cell in of_all)
    mean = ", ".join([speedup or "-", *([tau] if tau else [])])
    return [each.comparison.model, each.method, f"{each.temperature:g}", *told, mean]


def _mean(values: Iterable[float | str | None]) -> str:
    """The arithmetic one, as in the paper, of the tasks that are shown; none where one of them has no figure."""
    known = list(values)
    numbers = [value for value in known if isinstance(value, float)]
    return f"{statistics.fmean(numbers):.2f}" if numbers and len(numbers) == len(known) else ""


def _cell(cell: Cell) -> str:
    tau = cell.a.acceptance_length
    speed = cell.speedup.text() if cell.quiet else "too noisy"
    return f"{speed}, {tau:.2f}" if tau else speed


def _published_row(row: dict[str, str | float], names: Sequence[str]) -> list[str]:
    lengths: dict[str, object] = next(
        (each for each in published()["acceptance_length"] if (each["model"], each["method"]) == _who(row)), {}
    )
    told = [_published_cell(row.get(name), lengths.get(name)) for name in names]
    mean = _mean(row.get(name) for name in names)
    return [f"*{row['model']}*", f"*{row['method']}*", "*0*", *told, f"*{mean}*" if mean else ""]


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
    return _markdown(title, [["batch size", *map(str, sizes)], *rows]) + _differences(experiments)


def _figure_7(paper: Paper) -> str:
    experiments = paper.of("figure_7")
    if not experiments:
        return ""
    rows = []
    for each in experiments:
        repeats = each.comparison.workload.repeats
        for name, acceptance in _acceptances(each.comparison.cells):
            rows.append([name, *_alphas(acceptance, repeats)])
    width = max(map(len, rows))
    head = ["task", *(f"{n}-alpha" for n in range(width - 1))]
    rows = [row + [""] * (width - len(row)) for row in rows]
    title = f"**Figure 7**: n-alpha on a chain ({experiments[0].comparison.a.tree}), greedy"
    return _markdown(title, [head, *rows]) + _differences(experiments)


def _acceptances(cells: Sequence[Cell]) -> Iterable[tuple[str, Acceptance]]:
    told = [(cell.task, Acceptance(0, cell.a.verify_passes or 0, cell.a.accepted_by_position)) for cell in cells]
    yield from told
    total = Acceptance.total(acceptance for _, acceptance in told)
    if total and len(told) > 1:
        yield "all", total


def _alphas(acceptance: Acceptance, repeats: int) -> Iterable[str]:
    counts = (acceptance.verify_passes, *acceptance.accepted_by_position)
    for alpha, passes in zip(acceptance.alphas, counts, strict=False):
        low, high = wilson(alpha, passes / repeats)
        yield f"{alpha:.2f} ({low:.2f} to {high:.2f})"


def _differences(experiments: Iterable[Experiment]) -> str:
    """Shouted below a table: a speedup over another text is none."""
    lines = []
    for each in experiments:
        same = each.comparison.same_text
        if same and same.different:
            told = f"{same.different} of {same.compared} greedy answers are not those of plain decoding"
            example = f" ({same.example})" if same.example else ""
            lines.append(f"\n\n**TEXTS DIFFER**: {each.method}, temperature {each.temperature:g}: {told}{example}.")
    return "".join(lines)


def _not_measured(paper: Paper) -> str:
    lines = [f"- {method}: {reason}" for method, reason in paper.not_measured.items()]
    return "\n".join(["Not measured here:", "", *lines]) if lines else ""


def _markdown(title: str, rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([title, "", head, "|---" * len(rows[0]) + "|", *rest])
