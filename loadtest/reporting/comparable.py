"""Whether two results may be held against one another: what was asked, of what, on what.

Owns that list. What a change may change (commit, versions, draft, tree) is not on it.
"""

from collections.abc import Iterator

from loadtest.comparison import Comparison
from loadtest.curve import Curve
from loadtest.document import Document, Part
from loadtest.errors import BenchError
from loadtest.load_report import LoadReport
from loadtest.paper.results import Paper
from loadtest.reporting.results import Result

_UNLIKE = {"seed", "prompts", "rounds", "passes", "mean_prompt_tokens"}
"""Of a workload: what may differ. Prompts are told by their digest."""


class Incomparable(BenchError):
    """Two results of which one says nothing about the other."""


def require_comparable(before: Result, after: Result, *, anyway: bool) -> None:
    """Refuse results of different things; anyway: only those of different formats.

    Raises:
        Incomparable: the sentence names the first difference.
    """
    if type(before) is not type(after):
        raise Incomparable(f"a {_kind(before)} and a {_kind(after)} have no figure in common")
    if anyway:
        return
    theirs = dict(facts(after))
    for name, value in facts(before):
        if theirs.get(name) != value:
            raise Incomparable(
                f"not the same {name}: {_shown(value)} before, {_shown(theirs.get(name))} after; "
                "--anyway compares all the same"
            )
    added = next(iter(theirs.keys() - dict(facts(before)).keys()), None)
    if added:
        raise Incomparable(f"not the same {added}: only the second has it; --anyway compares all the same")


def facts(result: Result) -> Iterator[tuple[str, object]]:
    """What must be the same, by name."""
    match result:
        case Comparison():
            yield from _of_comparison(result)
        case Curve():
            yield "hardware", result.valid_for.hardware
            yield "model", result.valid_for.model
            yield from _of_workload(result.workload)
        case LoadReport():
            yield from _of_workload(result.workload)
        case Paper():
            for each in result.experiments:
                where = f"{each.name}, {each.method}, temperature {each.temperature:g}"
                yield from ((f"{where}: {name}", value) for name, value in _of_comparison(each.comparison))


def _of_comparison(comparison: Comparison) -> Iterator[tuple[str, object]]:
    yield "hardware", comparison.hardware
    yield "model", comparison.model
    yield "reference (side b)", (comparison.b.algorithm or "plain decoding", comparison.b.tree)
    for task in comparison.workload.tasks:
        yield f"digest of {task.name}", task.sha256
    yield from ((name, value) for name, value in _of_workload(comparison.workload) if name != "tasks")


def _of_workload(workload: Part) -> Iterator[tuple[str, object]]:
    for name in type(workload).model_fields:
        if name not in _UNLIKE:
            yield name.replace("_", " "), getattr(workload, name)


def _kind(document: Document) -> str:
    return document.format.partition("/")[0].removeprefix("aerie-").replace("-", " ")


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
