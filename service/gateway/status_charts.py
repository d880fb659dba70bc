"""Small bar charts as inline SVG: drawn here, coloured by the page's style sheet, so that no style stands in the page.

Owns scales and shapes. Refuses to own figures (status_figures.py) and colours (pages/status.css).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.gateway.markup import Html, html, joined

WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 4, 16, 34
_GAP = 0.3
"""Of a category's width, what stays free."""
_WIDEST = 34.0
_LABELLED, _ALL_LABELLED = 19.0, 30.0
"""Bars at least this wide have their value above them: the last series', and all series'."""


class Bars(NamedTuple):
    """One series: a value for each category, or None where it is not known. `marks` are drawn across the bars."""

    name: str
    values: Sequence[float | None]
    style: str
    marks: Sequence[float | None] = ()


def bar_chart(
    label: str, axis: str, categories: Sequence[str], series: Sequence[Bars], level: float | None = None
) -> Html:
    """Grouped bars. `label`: in words; `axis`: what the categories are; `level`: what to compare with."""
    known = [value for bars in series for value in (*bars.values, *bars.marks) if value is not None]
    scale = _Scale(_ceiling(max([*known, level or 0.0])), len(categories), len(series))
    parts = [_grid(scale), _axis(scale, axis, categories)]
    parts += [_series(scale, index, bars) for index, bars in enumerate(series)]
    if level is not None:
        parts.append(_across(scale, level))
    view = f"0 0 {WIDTH} {HEIGHT}"
    return html("svg", *parts, viewBox=view, role="img", aria_label=label, class_="chart")


class _Scale(NamedTuple):
    ceiling: float
    categories: int
    series: int

    @property
    def slot(self) -> float:
        return (WIDTH - _LEFT - _RIGHT) / self.categories

    @property
    def bar(self) -> float:
        return min(_WIDEST, self.slot * (1 - _GAP) / self.series)

    def x(self, category: int, series: int) -> float:
        start = _LEFT + self.slot * (category + 0.5) - self.bar * self.series / 2
        return start + self.bar * series

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / self.ceiling


def figure(value: float) -> str:
    """Three digits, more before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ceiling(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    round_numbers = (step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 20))
    return next((number for number in round_numbers if number >= value), value)  # the smallest floats have none


def _text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> Html:
    return html("text", text, x=_round(x), y=_round(y), class_=style, text_anchor=anchor)


def _grid(scale: _Scale) -> Html:
    levels = [scale.ceiling * part for part in (0, 0.5, 1)]
    lines = [
        html("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_round(scale.y(v)), y2=_round(scale.y(v)), class_="grid")
        for v in levels
    ]
    return joined(*lines, *(_text(_LEFT - 5, scale.y(v) + 3.5, f"{v:,.4g}", "tick", "end") for v in levels))


def _axis(scale: _Scale, axis: str, categories: Sequence[str]) -> Html:
    names = [
        _text(_LEFT + scale.slot * (index + 0.5), HEIGHT - _BOTTOM + 13, name, "tick")
        for index, name in enumerate(categories)
    ]
    return joined(*names, _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, axis, "axis"))


def _series(scale: _Scale, index: int, bars: Bars) -> Html:
    parts: list[Html] = []
    labelled = scale.bar >= (_LABELLED if index == scale.series - 1 else _ALL_LABELLED)
    for category, value in enumerate(bars.values):
        x = scale.x(category, index)
        mark = bars.marks[category] if bars.marks else None
        if value is not None:
            parts.append(_bar(scale, x, value, bars.style))
            above = _text(x + scale.bar / 2, scale.y(max(value, mark or 0.0)) - 4, figure(value), "value")
            parts += [above] if labelled else []
        if mark is not None:
            y = _round(scale.y(mark))
            parts.append(html("line", x1=_round(x - 2), x2=_round(x + scale.bar + 2), y1=y, y2=y, class_="mark"))
    return html("g", html("title", bars.name), *parts)


def _bar(scale: _Scale, x: float, value: float, style: str) -> Html:
    top, width = scale.y(value), max(1.0, scale.bar - 1)
    height = scale.y(0) - top
    box = {"x": _round(x), "y": _round(top), "width": _round(width), "height": _round(height)}
    return html("rect", **box, rx=2, class_=style)


def _across(scale: _Scale, level: float) -> Html:
    y = _round(scale.y(level))
    return html("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="level")


def _round(value: float) -> str:
    return f"{value:.1f}"
