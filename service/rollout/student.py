"""Student's t distribution for whole degrees of freedom, which the standard library lacks."""

import math
from functools import cache


@cache
def quantile(tail: float, degrees: int) -> float:
    """The t that is exceeded with this probability.

    Args:
        tail: one tail's probability, above 0 and at most 0.5.
        degrees: of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _exceeded(high, degrees) > tail:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _exceeded(middle, degrees) > tail else (low, middle)
    return high


def _exceeded(value: float, degrees: int) -> float:
    """P(T > value) for a value not below 0: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    odd = degrees % 2
    term = total = (math.cos(angle) if odd else 1.0) if degrees > 1 else 0.0
    for step in range(2 + odd, degrees - 1, 2):
        term *= cos2 * (step - 1) / step
        total += term
    within = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, (1 - within) / 2)
