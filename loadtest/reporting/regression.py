"""Two runs of the same thing, before and after a change: a table of verdicts, and whether a pipeline may go on.

    comparable? -> the figures of both -> a verdict on each -> a status

Owns the status and the table's looks. Refuses to own figures (cells.py) and verdicts (verdict.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtest.comparison import Comparison
from loadtest.curve import Curve
from loadtest.load_report import LoadReport
from loadtest.paper.results import Paper
from loadtest.reporting import reservations
from loadtest.reporting.cells import cells, judged_percentiles
from loadtest.reporting.comparable import require_comparable
from loadtest.reporting.content import Table
from loadtest.reporting.figures import UNKNOWN, figure, with_interval
from loadtest.reporting.results import Result
from loadtest.reporting.verdict import Figure, Verdict, judge
from loadtest.stats import fewest
from loadtest.summary import PERCENTILES
from loadtest.table import aligned

PASSED, REGRESSED, NOT_PROVEN = 0, 1, 3
"""Exit statuses: nothing is worse; something is; nothing is, as far as it could be judged."""
_MISSING = Figure(None, "missing")
_HEADS = ("cell", "before", "after", "change", "verdict")


@dataclass(frozen=True)
class Row:
    """One figure."""

    cell: str
    before: Figure
    after: Figure
    verdict: Verdict


@dataclass(frozen=True)
class Regression:
    """All figures, and what else keeps the second run from being a whole result."""

    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    partial: bool
    tolerance: float

    def count(self, verdict: Verdict) -> int:
        """Rows with it."""
        return sum(row.verdict is verdict for row in self.rows)

    @property
    def status(self) -> int:
        """What a pipeline sees."""
        if self.count(Verdict.WORSE):
            return REGRESSED
        judged = len(self.rows) - self.count(Verdict.NOT_JUDGED)
        return PASSED if judged == len(self.rows) and judged and not self.partial else NOT_PROVEN

    def sentence(self) -> str:
        """The outcome."""
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in Verdict if self.count(verdict))
        ends = {
            PASSED: "no regression",
            REGRESSED: "REGRESSION",
            NOT_PROVEN: "NOT PROVEN: no regression was found, but not every figure could be judged",
        }
        return f"{ends[self.status]} ({counts or 'no figures in common'}; tolerance {self.tolerance * 100:.3g}%)"

    def table(self) -> Table:
        """Of all rows."""
        return Table("Before and after", _HEADS, tuple(map(_texts, self.rows)))

    def text(self) -> str:
        """For a terminal."""
        table = self.table()
        return "\n".join([*aligned([table.heads, *table.rows]), "", *self.remarks, self.sentence()])


def hold_against(
    before: Result,
    after: Result,
    tolerance: float,
    *,
    anyway: bool = False,
    raw: tuple[Path | None, Path | None] = (None, None),
) -> Regression:
    """Judge every figure of the second run by the first one's.

    Raises:
        Incomparable: the runs are of different things.
        DocumentError: raw lines that are not the run's.
    """
    require_comparable(before, after, anyway=anyway)
    ours, theirs = cells(before, raw[0]), cells(after, raw[1])
    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = ((name, ours.get(name, _MISSING), theirs.get(name, _MISSING)) for name in names)
    return Regression(
        rows=tuple(Row(name, old, new, judge(old, new, tolerance)) for name, old, new in pairs),
        remarks=tuple(_remarks(before, after, raw)),
        partial=_partial(before) or _partial(after),
        tolerance=tolerance,
    )


def _partial(result: Result) -> bool:
    return isinstance(result, Comparison | LoadReport | Paper) and result.partial


def _remarks(before: Result, after: Result, raw: tuple[Path | None, Path | None]) -> Iterator[str]:
    for name, result in (("First", before), ("Second", after)):
        match result:
            case Comparison():
                yield from (f"{name} run: {words}" for words in reservations.of_comparison(result))
            case Paper():
                told = {words for each in result.experiments for words in reservations.of_comparison(each.comparison)}
                yield from (f"{name} run: {words}" for words in sorted(told))
                if result.partial:
                    yield f"{name} run: partial, the experiments were interrupted."
            case Curve():
                yield from (f"{name} run: {words}" for words in reservations.of_curve(result))
            case LoadReport() if result.partial:
                yield f"{name} run: partial, the load was interrupted."
    if isinstance(after, Curve) and after.speculative:
        yield "Tau of a curve has no interval: unclear at best."
    if isinstance(after, LoadReport):
        yield from _remarks_on_loads(after, told=None not in raw)


def _remarks_on_loads(after: LoadReport, *, told: bool) -> Iterator[str]:
    yield "A load report does not tell the endpoint's hardware: see to it that it is the same."
    if not told:
        yield "Latencies and tau have no intervals without both runs' --raw: they are shown, not judged."
    if short := [percent for percent in PERCENTILES if _too_few(after, percent)]:
        needs = ", ".join(f"p{percent} of {fewest(percent)}" for percent in short)
        yield f"Percentiles are judged where enough requests were answered: {needs}."


def _too_few(report: LoadReport, percent: int) -> bool:
    return any(percent not in judged_percentiles(stage) for stage in report.stages)


def _texts(row: Row) -> tuple[str, ...]:
    return (row.cell, _shown(row.before), _shown(row.after), _change(row), row.verdict)


def _shown(one: Figure) -> str:
    estimate = one.estimate
    if estimate is None:
        return one.fault
    return figure(estimate.value) if estimate.low == estimate.high else with_interval(estimate)


def _change(row: Row) -> str:
    before, after = row.before.estimate, row.after.estimate
    if before is None or after is None or not before.value:
        return UNKNOWN
    change = after.value / before.value - 1
    return f"{change:+.1%}" if abs(change) < 100 else f"times {figure(change + 1)}"
