"""Promote, hold or roll back: the decision, from what was measured.

Owns the rules and their sentences. Pure. Refuses to own how anything is estimated (estimate.py) and what becomes of the
verdict (weights.py, command.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.rollout.estimate import Estimate, Tails


class Verdict(StrEnum):
    """What is to be done with the canary."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll back"
    IDLE = "idle"
    """There is nothing to judge: it has no share of the requests, or all of them."""


class Finding(StrEnum):
    """What a measure says."""

    GOOD = "good"
    BAD = "bad"
    UNCLEAR = "unclear"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Measure:
    """One comparison, and how far the canary may fall behind."""

    name: str
    limit: float
    estimate: Estimate | None
    finding: Finding


@dataclass(frozen=True, slots=True)
class Spending:
    """How the chance to err is spent, so that it holds for a whole roll-out however often somebody looks.

    A wrong roll-back can happen in every step, look and measure, so each has its part. A bad canary must pass all of
    them to be promoted wrongly, so there each look has its part only. Look k of a step gets 1 / (k (k + 1)) of it: the
    parts of all looks there ever could be add up to one.
    """

    error: float
    """Of a good canary being taken back, and of one below the limit being promoted."""
    steps: int
    measures: int

    def of_look(self, look: int) -> tuple[float, float]:
        """One tail's probability for promotions and for roll-backs; looks count from 1."""
        part = self.error / (look * (look + 1))
        return part, part / (self.steps * self.measures)

    def gain_tails(self, look: int) -> Tails:
        """Of a measure where more is better: its lower bound promotes."""
        promotion, roll_back = self.of_look(look)
        return Tails(low=promotion, high=roll_back)

    def cost_tails(self, look: int) -> Tails:
        """Of a measure where less is better: its lower bound takes back."""
        promotion, roll_back = self.of_look(look)
        return Tails(low=roll_back, high=promotion)


def gain(name: str, estimate: Estimate | None, at_least: float) -> Measure:
    """A ratio that is to be at least this: good if surely, bad if surely not.

    A canary no worse than the stable pool is not bad, whatever more is asked of it.
    """
    if estimate is None:
        return Measure(name, at_least, None, Finding.NOT_MEASURED)
    if estimate.low >= at_least:
        return Measure(name, at_least, estimate, Finding.GOOD)
    worse = estimate.high < min(1.0, at_least)
    return Measure(name, at_least, estimate, Finding.BAD if worse else Finding.UNCLEAR)


def cost(name: str, estimate: Estimate | None, at_most: float, *, surely: bool = False) -> Measure:
    """A guard rail: bad if surely above the limit, good if by its value it is not, or `surely` not."""
    if estimate is None:
        return Measure(name, at_most, None, Finding.NOT_MEASURED)
    if estimate.low > at_most:
        return Measure(name, at_most, estimate, Finding.BAD)
    within = (estimate.high if surely else estimate.value) <= at_most
    return Measure(name, at_most, estimate, Finding.GOOD if within else Finding.UNCLEAR)


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a verdict is made from."""

    speed: Measure
    acceptance_length: Measure
    guards: Sequence[Measure]
    missing: Sequence[str]
    """Why there is too little to promote on."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """By name, in the order in which they are shown."""
        return {one.name: one for one in (self.speed, self.acceptance_length, *self.guards)}


def decide(found: Findings) -> tuple[Verdict, str]:
    """The verdict and why, as the rest of a sentence. What speaks against the canary comes first."""
    speed, tau = found.speed, found.acceptance_length
    against = [f"its {one.name} is {_told(one)}" for one in (*found.guards, speed) if one.finding is Finding.BAD]
    if not against and tau.finding is Finding.BAD:
        worse = f"its {tau.name} is {_told(tau)}"
        if speed.finding is Finding.GOOD:
            return Verdict.HOLD, f"{worse}, and still it is fast enough: another tree or hardware? A person decides"
        against.append(worse)
    if against:
        return Verdict.ROLL_BACK, "; ".join(against)
    if found.missing:
        return Verdict.HOLD, "; ".join(found.missing)
    unclear = [one for one in found.measures.values() if one.finding is Finding.UNCLEAR]
    unclear += [one for one in (speed, tau) if one.finding is Finding.NOT_MEASURED]
    if unclear:
        return Verdict.HOLD, "not yet certain of its " + " and ".join(one.name for one in unclear)
    return Verdict.PROMOTE, f"its {speed.name} is {_told(speed)} and its {tau.name} {_told(tau)}"


def _told(measure: Measure) -> str:
    assert measure.estimate is not None
    _, _, value, low, high = measure.estimate
    if measure.name in SHARES:
        return f"{value:.2%} ({low:.2%} to {high:.2%}) above the stable pool's"
    return f"{value:.3f} ({low:.3f} to {high:.3f}) times the stable pool's"


ERRORS = "error rate"
MISMATCHES = "mismatch rate"
SHARES = (ERRORS, MISMATCHES)
"""Measures that are differences, not ratios."""
