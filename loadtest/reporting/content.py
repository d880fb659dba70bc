"""What a report says, as data: warnings, tables and plots, before anything is drawn.

Owns these shapes. Refuses to own where the figures come from (the views), how a plot is drawn (drawing.py) and how a
page looks (page.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from loadtest.document import Interval
from loadtest.stats import Estimate

SMALLEST, LARGEST = 1e-9, 1e12
"""Of what is drawn: figures beyond stand in the table only."""


class Point(NamedTuple):
    """A figure, with its 95% interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""

    @classmethod
    def of(cls, x: float, interval: Interval | Estimate) -> "Point":
        """With its interval."""
        return cls(x, interval.value, interval.low, interval.high)


@dataclass(frozen=True)
class Series:
    """Points of one colour. Colour 0 is the reference's grey."""

    name: str
    colour: int
    points: tuple[Point, ...]
    dashed: bool = False
    marked: bool = True
    """A marker at every point, rather than a line alone."""


@dataclass(frozen=True)
class Axis:
    """Its label has the unit. Ticks: where, if not anywhere."""

    label: str
    scale: Literal["linear", "log"] = "linear"
    ticks: tuple[int, ...] = ()
    least: float | None = None
    """Where it begins, if it must begin there; a logarithmic one begins where it can."""
    most: float | None = None
    """Where it ends, likewise."""


@dataclass(frozen=True)
class Table:
    """Its first column names the rows."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A figure with everything that a reader who cannot see it needs: a table of its numbers."""

    name: str
    """Of its file, and of its place on a page."""
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    table: Table
    level: float | None = None
    """A line across, to compare with."""
    categories: tuple[str, ...] = ()
    """Horizontal bars, one group a category, in place of lines: a point's x is a category's place, its y the bar."""
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing can be drawn."""
        return not any(series.points for series in self.series)

    @property
    def words(self) -> str:
        """What it shows, for a reader who cannot see it."""
        of = ", ".join(series.name for series in self.series)
        across, up = (self.y, self.x) if self.categories else (self.x, self.y)
        return f"{self.title}: {up.label} against {across.label}; {of}"


@dataclass(frozen=True)
class Content:
    """A report on one result."""

    title: str
    subtitle: str
    warnings: tuple[str, ...]
    """What keeps figures from being results; never to be overlooked."""
    table: Table
    """The figures that matter most."""
    plots: tuple[Plot, ...]
    provenance: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = field(default=())


def drawable(plot: Plot) -> Plot:
    """Without what cannot be drawn, and with a note on how much that is."""
    series = tuple(replace(each, points=tuple(_drawable(plot, each.points))) for each in plot.series)
    lost = sum(len(before.points) - len(after.points) for before, after in zip(plot.series, series, strict=True))
    kept = tuple(each for each in series if each.points)
    if not lost:
        return replace(plot, series=kept)
    note = f"{lost} figures are not drawn: too small or too large; the table has them."
    return replace(plot, series=kept, notes=(*plot.notes, note))


def _drawable(plot: Plot, points: Iterable[Point]) -> Iterator[Point]:
    for point in points:
        if _fits(point.x, plot.x) and _fits(point.y, plot.y):
            low, high = (None if end is None else min(max(end, SMALLEST), LARGEST) for end in (point.low, point.high))
            yield point._replace(low=low, high=high)


def _fits(value: float, axis: Axis) -> bool:
    return SMALLEST <= value <= LARGEST or (axis.scale == "linear" and value == 0)


def wide_scale(values: Sequence[float], times: float = 30.0) -> Literal["linear", "log"]:
    """Logarithmic where the largest is so many times the least."""
    known = [value for value in values if SMALLEST <= value <= LARGEST]
    return "log" if known and max(known) > times * min(known) else "linear"
