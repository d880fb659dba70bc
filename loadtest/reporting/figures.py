"""Numbers in words: as many digits as tell something."""

from loadtest.document import Interval
from loadtest.stats import Estimate

UNKNOWN = "-"


def figure(value: float | None) -> str:
    """Three digits about; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size and not 1e-3 <= size < 1e7:
        return f"{value:.3g}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


def share(value: float) -> str:
    """In percent."""
    return f"{value:.0%}" if value < 100 else "above 10,000%"


def with_interval(interval: Interval | Estimate) -> str:
    """A value and where it lies."""
    return f"{figure(interval.value)} ({figure(interval.low)} to {figure(interval.high)})"


def milliseconds(seconds: float | None) -> str:
    """Of seconds."""
    return figure(None if seconds is None else seconds * 1000)
