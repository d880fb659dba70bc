"""Whether a figure got better or worse: intervals are compared, never values alone.

Pure functions. Refuses to own which figures there are (cells.py).
"""

from dataclasses import dataclass
from enum import StrEnum

from loadtest.stats import Estimate


class Verdict(StrEnum):
    """On a figure, before and after."""

    BETTER = "better"
    SAME = "same"
    UNCLEAR = "unclear"
    WORSE = "WORSE"
    NOT_JUDGED = "NOT JUDGED"
    """There is no result on one of the sides, or none with an interval."""


@dataclass(frozen=True)
class Figure:
    """One of a result."""

    estimate: Estimate | None
    fault: str = ""
    """Why there is no estimate, or why it must not be judged."""
    higher_is_better: bool = True
    covered: bool = True
    """Whether it has an interval that covers it 95 times in 100: else it is unclear at best."""


def judge(before: Figure, after: Figure, tolerance: float) -> Verdict:
    """Worse: the new interval lies wholly on the bad side of the old one, by more than the tolerance (a share)."""
    if before.estimate is None or after.estimate is None or before.fault or after.fault:
        return Verdict.NOT_JUDGED
    if not (before.covered and after.covered):
        return Verdict.UNCLEAR
    lower = _below(after.estimate, before.estimate, tolerance)
    higher = _below(before.estimate, after.estimate, tolerance)
    if lower or higher:
        return Verdict.BETTER if higher == before.higher_is_better else Verdict.WORSE
    return Verdict.SAME if _near(before.estimate, after.estimate, tolerance) else Verdict.UNCLEAR


def _below(one: Estimate, other: Estimate, tolerance: float) -> bool:
    return one.high < other.low * (1 - tolerance)


def _near(one: Estimate, other: Estimate, tolerance: float) -> bool:
    """Wherever in their intervals both lie, they differ by no more than the tolerance."""
    least, largest = min(one.low, other.low), max(one.high, other.high)
    return least >= largest * (1 - tolerance)
