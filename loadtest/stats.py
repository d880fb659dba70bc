"""Statistics: percentiles, medians and shares with their 95% intervals, and how much rounds differ.

Pure functions of numbers: no chance is in them. Intervals take values as independent of one another.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Of a normal distribution's 95% interval."""
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `low <= value <= high`."""

    value: float
    low: float
    high: float


def median_with_interval(values: Sequence[float]) -> Estimate:
    """The median, and the narrowest pair of order statistics, as many below as above, that covers it 95 times in 100.

    Of fewer than six values that is the least and the largest, which cover it less often (`coverage_of_all`).
    """
    ascending = sorted(values)
    low, high = _ranks(len(ascending), 0.5)
    return Estimate(statistics.median(ascending), ascending[low - 1], ascending[high - 1])


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest rank, so that every percentile was really seen."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def percentile_with_interval(ascending: Sequence[float], percent: float) -> Estimate:
    """A percentile, and the order statistics that cover it 95 times in 100; of few values (`fewest`) less often."""
    low, high = _ranks(len(ascending), percent / 100)
    return Estimate(percentile(ascending, percent), ascending[low - 1], ascending[high - 1])


def fewest(percent: float) -> int:
    """Of so many values at least, a percentile from the 50th on has a 95% interval: fewer may well all lie below it."""
    return math.ceil(math.log(_TAIL) / math.log(percent / 100))


def coverage_of_all(count: int) -> float:
    """How often the median lies between the least and the largest of so many values."""
    return float(1 - 0.5 ** (count - 1))


@lru_cache
def _ranks(count: int, share: float) -> tuple[int, int]:
    """Of the order statistics that bound a quantile, counted from 1: each end misses it with 2.5% at most."""
    low, above = _missing(count, share), _missing(count, 1 - share)
    return max(1, low), min(count, count + 1 - above)


def _missing(count: int, share: float) -> int:
    """The highest rank that lies above the quantile with 2.5% at most; 0: none does.

    It does where fewer values than its rank lie below the quantile, and these are binomially distributed.
    """
    reached = 0.0
    for below in range(count + 1):
        ways = math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
        reached += math.exp(ways + below * math.log(share) + (count - below) * math.log1p(-share))
        if reached > _TAIL:
            return below
    return count


def wilson(share: float, of: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share of so many; a part of one is a weight."""
    square = Z * Z / of
    middle = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / of + square / of / 4) / (1 + square)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def quantiles(values: Sequence[float], count: int) -> tuple[float, ...]:
    """So many percentiles, from the least value to the largest; rounded."""
    ascending = sorted(values)
    return tuple(rounded(percentile(ascending, 100 * index / (count - 1))) for index in range(count))


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Standard deviation over mean, of at least two positive values."""
    return statistics.stdev(values) / statistics.fmean(values)


def rounded(value: float) -> float:
    """Four figures: more would claim what no run can tell."""
    return float(f"{value:.4g}")
