"""Statistics of a few rounds: medians, seeded bootstrap intervals, and how much rounds differ.

Pure functions of numbers; the same seed gives the same interval.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median with its interval; `low <= value <= high`."""

    value: float
    low: float
    high: float


def median_with_interval(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The median, and the percentile bootstrap's 95% interval for it.

    Of fewer than six values that is the least and the largest, which cover the median less often than that.
    """
    middle = statistics.median(values)
    draw = random.Random(seed)  # noqa: S311  resampling, not a secret
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(middle, min(medians[tail], middle), max(medians[-1 - tail], middle))


def quantiles(values: Sequence[float], count: int) -> tuple[float, ...]:
    """So many, from the least value to the largest, linear between neighbours; rounded."""
    ascending = sorted(values)
    last = len(ascending) - 1
    places = [last * index / (count - 1) for index in range(count)]
    return tuple(
        rounded(ascending[int(at)] + (at - int(at)) * (ascending[min(int(at) + 1, last)] - ascending[int(at)]))
        for at in places
    )


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Standard deviation over mean, of at least two positive values."""
    return statistics.stdev(values) / statistics.fmean(values)


def rounded(value: float) -> float:
    """Four figures: more would claim what no run can tell."""
    return float(f"{value:.4g}")
