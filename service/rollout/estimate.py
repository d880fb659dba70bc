"""How a canary compares with the stable pool, with honest uncertainty.

Owns two estimators: the ratio of two rates, and the difference of two shares of errors. Pure functions of counts.
Refuses to own what is counted (evidence.py) and what follows from it (judge.py).

Time is cut into blocks, and blocks are what is resampled: requests within minutes of one another are alike (one burst,
one tenant, one conversation), and an interval that took each for a draw of its own would be too narrow.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.rollout import student

MIN_BLOCKS = 6
"""In which both pools worked; fewer tell nothing of how much blocks differ."""


class Counts(NamedTuple):
    """Of a block: what happened in each pool (tokens, say), and in how much of what (seconds)."""

    canary_events: float
    canary_exposure: float
    stable_events: float
    stable_exposure: float


Block = Mapping[str, Counts]
"""By stratum: counts are compared within each. The batch size is one, or the task."""


class Tails(NamedTuple):
    """The probability that the truth is below `low`, and that it is above `high`."""

    low: float
    high: float


class Estimate(NamedTuple):
    """`value` compares `canary` with `stable`: a ratio or a difference, within its interval."""

    canary: float
    stable: float
    value: float
    low: float
    high: float


def compare_rates(blocks: Sequence[Block], tails: Tails) -> Estimate | None:
    """The ratio of two rates of events by exposure, at equal strata: Mantel and Haenszel's.

    Each stratum's rates are weighted by c s / (c + s), c and s being the exposures there, so one that only one pool has
    seen counts for nothing, and exchanging the pools inverts the ratio. Its logarithm's error is the jackknife's over
    blocks, with Student's t for few of them (Mosteller and Tukey 1977, chapter 8; Rothman, Modern Epidemiology, on rate
    ratios).

    Returns:
        None: fewer than `MIN_BLOCKS` blocks in which both pools worked, or nothing happened.
    """
    shared = [block for block in blocks if _exposed(block)]
    totals = _sum(shared)
    if len(shared) < MIN_BLOCKS or (rates := _rates(totals)) is None:
        return None
    logs = []
    for block in shared:
        without = _rates({name: _minus(counts, block.get(name)) for name, counts in totals.items()})
        if without is None:
            return None
        logs.append(math.log(without[0] / without[1]))
    middle, error = math.log(rates[0] / rates[1]), _jackknife_error(logs)
    low, high = (math.exp(middle + side * error) for side in _sides(tails, len(logs) - 1))
    return Estimate(*rates, math.exp(middle), low, high)


def compare_shares(blocks: Sequence[Counts], tails: Tails) -> Estimate | None:
    """The canary's share of events minus the stable pool's, by Newcombe's interval (1998, method 10).

    Sound where nothing happened at all, unlike a jackknife. Counts are first divided by how much more they vary between
    blocks than independent ones would: twenty errors of one restart weigh as one.

    Returns:
        None: one of the pools had no requests.
    """
    canary = _effective([(block.canary_events, block.canary_exposure) for block in blocks])
    stable = _effective([(block.stable_events, block.stable_exposure) for block in blocks])
    if canary is None or stable is None:
        return None
    bounds = [abs(side) for side in _sides(tails, max(1, len(blocks) - 1))]
    value = canary[0] - stable[0]
    (canary_low, _), (_, stable_high) = _wilson(*canary, bounds[0]), _wilson(*stable, bounds[0])
    (_, canary_high), (stable_low, _) = _wilson(*canary, bounds[1]), _wilson(*stable, bounds[1])
    low = value - math.hypot(canary[0] - canary_low, stable_high - stable[0])
    high = value + math.hypot(canary_high - canary[0], stable[0] - stable_low)
    return Estimate(canary[0], stable[0], value, low, high)


def overlap(blocks: Sequence[Block]) -> float:
    """How much of the pools' exposure is in the same strata: 1 if they are spread alike, 0 if never in one stratum."""
    totals = _sum(blocks).values()
    canary, stable = sum(one.canary_exposure for one in totals), sum(one.stable_exposure for one in totals)
    if not (canary and stable):
        return 0.0
    return sum(min(one.canary_exposure / canary, one.stable_exposure / stable) for one in totals)


def _exposed(block: Block) -> bool:
    counts = block.values()
    return any(one.canary_exposure > 0 for one in counts) and any(one.stable_exposure > 0 for one in counts)


def _sum(blocks: Sequence[Block]) -> dict[str, Counts]:
    totals: dict[str, Counts] = {}
    for block in blocks:
        for name, counts in block.items():
            before = totals.get(name, Counts(0, 0, 0, 0))
            totals[name] = Counts(*map(sum, zip(before, counts, strict=True)))
    return totals


def _minus(counts: Counts, part: Counts | None) -> Counts:
    if part is None:
        return counts
    return Counts(*(max(0.0, whole - its) for whole, its in zip(counts, part, strict=True)))


def _rates(strata: Mapping[str, Counts]) -> tuple[float, float] | None:
    """The pools' rates over the strata that both have seen; None where one of them is nothing."""
    weight = canary = stable = 0.0
    for one in strata.values():
        if one.canary_exposure > 0 and one.stable_exposure > 0:
            both = one.canary_exposure + one.stable_exposure
            weight += one.canary_exposure * one.stable_exposure / both
            canary += one.canary_events * one.stable_exposure / both
            stable += one.stable_events * one.canary_exposure / both
    return (canary / weight, stable / weight) if canary > 0 and stable > 0 else None


def _jackknife_error(without: Sequence[float]) -> float:
    mean = math.fsum(without) / len(without)
    return math.sqrt((len(without) - 1) / len(without) * math.fsum((one - mean) ** 2 for one in without))


def _sides(tails: Tails, degrees: int) -> tuple[float, float]:
    """In standard errors."""
    return -student.quantile(tails.low, degrees), student.quantile(tails.high, degrees)


def _effective(blocks: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The share, and of how many independent requests it would be as certain."""
    exposed = [(events, requests) for events, requests in blocks if requests > 0]
    events, requests = (sum(column) for column in zip(*exposed, strict=True)) if exposed else (0.0, 0.0)
    if not requests:
        return None
    share = min(1.0, events / requests)
    if share in (0, 1) or len(exposed) == 1:
        return share, requests
    spread = sum((its - share * of) ** 2 / (share * (1 - share) * of) for its, of in exposed) / (len(exposed) - 1)
    return share, requests / max(1.0, spread)


def _wilson(share: float, requests: float, deviations: float) -> tuple[float, float]:
    square = deviations**2 / requests
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
