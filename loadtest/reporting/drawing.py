"""Plots drawn with matplotlib: the same figure as PNG for documents and as SVG for a page.

Owns marks, scales and the light palette. Refuses to own figures (the views) and what a page needs of an SVG
(inline_svg.py). The same plot is the same file, with the same matplotlib.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from loadtest.reporting.content import Axis, Plot, Series, drawable
from loadtest.reporting.figures import figure as in_words

INK, SOFT, RULE, CARD, REFERENCE = "#1b2430", "#566170", "#dfe3e8", "#ffffff", "#6b7683"
COLOURS = ("#0e7a70", "#b4480f", "#4d5fc1", "#8a5a00", "#a3337f", "#4b6b1f")
"""Of series, from 1 on; each is told by its marker too."""
_MARKERS = "osD^vPX"
_WIDTH_INCHES, _HEIGHT_INCHES, _LINE_INCHES, _BAR_INCHES = 3.9, 2.5, 0.18, 0.23
_DPI = 240
_MARGIN = 1.08
_DODGE = 0.012
"""Of the axis: how far series whose intervals stand at the same batch size are apart."""
_MOST_TICKS = 9
_LONGEST_NAME = 44
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "aerie",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def png(plot: Plot) -> bytes:
    """With its title, on white."""
    file = io.BytesIO()
    with _style():
        figure(plot).savefig(file, format="png", dpi=_DPI, facecolor=CARD)
    return file.getvalue()


def svg(plot: Plot) -> str:
    """Without title and ground, which a page has of its own."""
    file = io.StringIO()
    with _style():
        figure(plot, titled=False).savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """What is too small for a float's arithmetic, or lacks in the font, is no matter for a warning."""
    with mpl.rc_context(_STYLE), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def figure(plot: Plot, *, titled: bool = True) -> Figure:
    """To be saved, or put beside others."""
    plot = drawable(plot)
    columns = 1 if any(len(series.name) > 20 for series in plot.series) else 2
    lines = math.ceil(len(plot.series) / columns) if len(plot.series) > 1 else 0
    height = _HEIGHT_INCHES
    if plot.categories:
        height = 1.0 + _BAR_INCHES * (len(plot.categories) * (len(plot.series) + 0.6))
    drawn = Figure(figsize=(_WIDTH_INCHES, height + _LINE_INCHES * lines), layout="constrained")
    axes = drawn.subplots()
    if plot.categories:
        _bars(axes, plot)
    else:
        _lines(axes, plot)
    if titled:
        drawn.suptitle(name(plot.title), fontsize="large", fontweight="bold")
    if lines:
        handles, _ = axes.get_legend_handles_labels()
        labels = [name(series.name) for series in plot.series]
        drawn.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize="medium", handlelength=2.8)
    return drawn


def printable(text: str) -> str:
    """What has no shape, or no place in XML, is a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def name(text: str) -> str:
    """As it can be drawn: what is too long ends early."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def _bars(axes: Axes, plot: Plot) -> None:
    thick = 0.8 / max(1, len(plot.series))
    least = plot.y.least or 0.0
    for index, series in enumerate(plot.series):
        places = [point.x + (index - (len(plot.series) - 1) / 2) * thick for point in series.points]
        lengths = [point.y - least for point in series.points]
        drawn = axes.barh(places, lengths, thick * 0.9, left=least, color=_colour(series), label=str(index))
        axes.bar_label(drawn, [f" {in_words(point.y)}" for point in series.points], color=INK)
    axes.set_yticks(range(len(plot.categories)), [name(category) for category in plot.categories], color=INK)
    axes.set_ylim(len(plot.categories) - 0.5, -0.5)
    axes.set_xlim(*_ends(plot.y, [point.y for series in plot.series for point in series.points], 1.2))
    axes.set_xlabel(plot.y.label)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _lines(axes: Axes, plot: Plot) -> None:
    points = [point for series in plot.series for point in series.points]
    heights = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    across = _ends(plot.x, [point.x for point in points])
    _scale(axes, "x", plot.x, across)
    _scale(axes, "y", plot.y, _ends(plot.y, heights + ([plot.level] if plot.level else [])))
    if plot.level is not None:
        axes.axhline(plot.level, color=INK, linewidth=1, linestyle=(0, (3, 3)))
    apart = bool(plot.x.ticks) and any(point.low is not None for point in points)
    for index, series in enumerate(plot.series):
        shift = (across[1] / across[0]) ** (_DODGE * (index - (len(plot.series) - 1) / 2)) if apart else 1.0
        _line(axes, index, series, shift)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _line(axes: Axes, index: int, series: Series, shift: float) -> None:
    marker = _MARKERS[series.colour % len(_MARKERS)] if series.marked else ""
    colour = _colour(series)
    across, up = [point.x * shift for point in series.points], [point.y for point in series.points]
    style = (0, (4, 2)) if series.dashed else "solid"
    axes.plot(across, up, color=colour, linestyle=style, linewidth=1.5, marker=marker, markersize=4, label=str(index))
    for x, point in zip(across, series.points, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1, marker="_", markersize=5)
        if point.label:
            beside = (4, 4) if series.colour else (4, -10)
            axes.annotate(name(point.label), (x, point.y), beside, textcoords="offset points", color=SOFT)


def _scale(axes: Axes, which: str, axis: Axis, ends: tuple[float, float]) -> None:
    getattr(axes, f"set_{which}label")(axis.label)
    getattr(axes, f"set_{which}scale")(axis.scale)
    getattr(axes, f"set_{which}lim")(*ends)
    drawn = axes.xaxis if which == "x" else axes.yaxis
    drawn.set_minor_locator(NullLocator())
    if axis.ticks:
        drawn.set_major_locator(FixedLocator(_few(axis, ends)))
    elif axis.scale == "log":
        drawn.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=_MOST_TICKS))
    else:
        drawn.set_major_locator(MaxNLocator(6))
    drawn.set_major_formatter(FuncFormatter(_tick))


def _few(axis: Axis, ends: tuple[float, float]) -> list[float]:
    """Ticks that have room."""
    place = math.log if axis.scale == "log" else float
    room = (place(ends[1]) - place(ends[0])) / _MOST_TICKS
    kept: list[float] = []
    for tick in axis.ticks:
        if ends[0] <= tick <= ends[1] and (not kept or place(tick) - place(kept[-1]) >= room):
            kept.append(tick)
    return kept


def _ends(axis: Axis, values: Sequence[float], margin: float = _MARGIN) -> tuple[float, float]:
    """Of an axis: all values lie within, and it is never empty."""
    if axis.scale == "log":
        known = [value for value in values if value > 0] or [1.0]
        margin = max(1.05, (max(known) / min(known)) ** 0.05)
        return min(known) / margin, max(known) * margin
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low or high) * (margin - 1)
    low = low - room if axis.least is None else axis.least
    high = high + room if axis.most is None else axis.most
    if axis.ticks:  # places rather than amounts
        low, high = axis.ticks[0] - 0.3, axis.ticks[-1] + 0.3
    return (low, high) if high > low else (low, low + 1.0)


def _colour(series: Series) -> str:
    return COLOURS[(series.colour - 1) % len(COLOURS)] if series.colour else REFERENCE


def _tick(value: float, _: object) -> str:
    return f"{value:,.6g}" if 1e-4 <= abs(value) < 1e7 or not value else f"{value:.4g}"
