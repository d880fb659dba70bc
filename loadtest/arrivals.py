"""When requests are due in an open loop: seconds since its beginning, ascending. Pure; the same seed, the same times.

Owns the schedules. Refuses to own sending (open_loop.py).
"""

import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from loadtest.errors import TraceError
from loadtest.files import numbered_lines


def random_arrivals(rate_per_s: float, *, burstiness: float = 1.0, seed: int = 0) -> Iterator[float]:
    """Without an end: gaps drawn from a gamma distribution of mean 1 / rate.

    Args:
        rate_per_s: requests per second, in the long run.
        burstiness: the distribution's shape. 1 is a Poisson process; below it requests come in bursts, above it evenly.
            The gaps' coefficient of variation is 1 / sqrt(burstiness).
        seed: of the draw.
    """
    draw = random.Random(seed)  # noqa: S311 - traffic, no secret
    at_s = 0.0
    while True:
        at_s += draw.gammavariate(burstiness, 1 / (rate_per_s * burstiness))
        yield at_s


def ramped(at_s: Iterable[float], ramp_s: float) -> Iterator[float]:
    """The same requests at a rate that grows evenly from 0 over so many seconds, and is what it was from then on.

    A rate of r t / ramp brings r t^2 / (2 ramp) requests by t, so that those of the first half of the ramp's time take
    all of it.
    """
    for each_s in at_s:
        yield math.sqrt(2 * ramp_s * each_s) if each_s < ramp_s / 2 else each_s + ramp_s / 2


def traced_arrivals(path: Path) -> tuple[float, ...]:
    """Those of a file: JSON lines with `at_s`, ascending.

    Raises:
        TraceError: unreadable, empty or broken; the sentence names the line.
    """
    try:
        lines = numbered_lines(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    if not lines:
        raise TraceError(f"{path}: no request in it")
    found: list[float] = []
    for number, line in lines:
        at_s = _at_s(line)
        if at_s is None or at_s < (found[-1] if found else 0.0):
            raise TraceError(f'{path}: line {number} has no "at_s", seconds that ascend from 0')
        found.append(at_s)
    return tuple(found)


def _at_s(line: bytes) -> float | None:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    at_s = document.get("at_s") if isinstance(document, dict) else None
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not math.isfinite(at_s):
        return None
    return float(at_s)
