"""A comparison as a table for people.

Owns its looks. A speedup of a restless machine is not shown: it is no result.
"""

from loadtest.comparison import ALL, Cell, Comparison, Described, SameText
from loadtest.document import Interval
from loadtest.table import aligned

_TITLES = ("batch size", "task", "a tok/s", "b tok/s", "a tau", "a / b", "interval")


def render(comparison: Comparison) -> str:
    """What was compared, then a row for every cell and every batch size."""
    work = comparison.workload
    lines = [
        f"{comparison.model}, {comparison.hardware}; {work.rounds} rounds in turns, {work.max_tokens} tokens at most, "
        f"temperature {work.temperature:g}" + ("; PARTIAL" if comparison.partial else ""),
        f"a: {_side(comparison.a)}",
        f"b: {_side(comparison.b)}",
    ]
    if comparison.same_text:
        lines += _texts(comparison.same_text)
    rows = [_row(cell) for cell in comparison.cells]
    if len(work.tasks) > 1:
        rows += [
            (str(each.batch_size), ALL, "", "", "", f"{each.speedup.value:.2f}", _interval(each.speedup))
            for each in comparison.overall
        ]
    return "\n".join([*lines, "", *aligned([_TITLES, *rows])])


def _side(side: Described) -> str:
    if side.sglang_version is None:
        return side.endpoint
    drafting = f"{side.algorithm} {side.tree}" if side.algorithm else "plain decoding"
    return f"{side.endpoint} (SGLang {side.sglang_version}, {side.device}, {drafting})"


def _texts(same: SameText) -> list[str]:
    line = f"greedy answers: {same.same} of {same.compared} the same, {same.alike} but for numerics"
    if not same.different:
        return [line]
    return [f"{line}, {same.different} DIFFERENT", f"  {same.example}"]


def _row(cell: Cell) -> tuple[str, ...]:
    tau = cell.a.acceptance_length
    figures = (f"{cell.a.tokens_per_s:.1f}", f"{cell.b.tokens_per_s:.1f}", f"{tau:.2f}" if tau else "-")
    ratio = (f"{cell.speedup.value:.2f}", _interval(cell.speedup)) if cell.quiet else ("-", "too noisy")
    return (str(cell.batch_size), cell.task, *figures, *ratio)


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
