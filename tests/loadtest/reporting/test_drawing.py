"""Plots: any figures that a file may hold are drawn, twice the same, and as SVG fit for a page."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.reporting import drawing
from loadtest.reporting.content import LARGEST, SMALLEST, Axis, Plot, Point, Series, Table, drawable
from loadtest.reporting.inline_svg import inline

PNG = b"\x89PNG\r\n"
SVG = "{http://www.w3.org/2000/svg}"
TABLE = Table("numbers", ("batch size", "speedup"), (("1", "1.5"),))
ODD_NAMES = ["<script>", 'a"b&c', "$x_1$", "$\\frac$", "_hidden", "two\nlines", "nul\x00", "日本語", "x" * 300, " "]

amounts = st.floats(0, allow_infinity=False) | st.sampled_from([0.0, 5e-324, 1e-300, 1.0, 1.7e308])
names = st.sampled_from(ODD_NAMES) | st.text(min_size=1, max_size=30)


@st.composite
def points(draw):
    low, middle, high = sorted(draw(st.tuples(amounts, amounts, amounts)))
    ends = draw(st.booleans())
    across = draw(st.integers(1, 4096) | amounts)
    return Point(across, middle, low if ends else None, high if ends else None, draw(names))


@st.composite
def plots(draw):
    series = [
        Series(draw(names), draw(st.integers(0, 20)), tuple(draw(st.lists(points(), max_size=5))), draw(st.booleans()))
        for _ in range(draw(st.integers(0, 4)))
    ]
    scales = st.sampled_from(["linear", "log"])
    ticks = st.just(()) | st.lists(st.integers(1, 4096), min_size=1, max_size=64).map(lambda t: tuple(sorted(set(t))))
    x = Axis("batch size", draw(scales), ticks=draw(ticks))
    y = Axis("speedup", draw(scales), least=draw(st.sampled_from([None, 0.0, 1.0])))
    return Plot("plot", draw(names), x, y, tuple(series), TABLE, level=draw(st.sampled_from([None, 1.0])))


def plot(*values, **fields):
    series = (Series("ours", 1, tuple(Point(size, value) for size, value in values)),)
    return Plot("speedup", "Speedup", Axis("batch size", "log"), Axis("speedup"), series, TABLE, **fields)


@settings(max_examples=8)
@given(plots())
def test_any_figures_are_drawn(any_plot):
    assert drawing.png(any_plot).startswith(PNG)
    root = ET.fromstring(inline(drawing.svg(any_plot), "p", any_plot.words))
    assert root.tag == f"{SVG}svg"


@settings(max_examples=10)
@given(st.lists(amounts, min_size=1, max_size=6), names)
def test_any_bars_are_drawn(lengths, name):
    series = (Series(name, 1, tuple(Point(place, length) for place, length in enumerate(lengths))),)
    categories = tuple(f"{name} {place}" for place in range(len(lengths)))
    bars = Plot("tau", "Tau", Axis("task"), Axis("tau", least=1), series, TABLE, categories=categories)
    assert drawing.png(bars).startswith(PNG)


@given(plots())
def test_what_cannot_be_drawn_is_left_out_and_told(any_plot):
    kept = drawable(any_plot)
    left = [point for series in kept.series for point in series.points]
    assert all(SMALLEST <= point.x <= LARGEST or point.x == 0 for point in left)
    lost = sum(len(series.points) for series in any_plot.series) - len(left)
    assert (kept.notes == any_plot.notes) == (lost == 0)
    assert not lost or f"{lost} figures are not drawn" in kept.notes[-1]


def test_the_same_plot_is_the_same_file():
    some = plot((1, 1.5), (2, 1.4), level=1.0)
    assert drawing.png(some) == drawing.png(some)
    assert drawing.svg(some) == drawing.svg(some)


def test_an_inline_picture_has_no_style_and_only_the_pages_colours():
    svg = inline(drawing.svg(plot((1, 1.5), (64, 0.9), level=1.0)), "r1-speedup", "Speedup against batch size")
    root = ET.fromstring(svg)
    assert not [element for element in root.iter() if "style" in element.attrib or element.tag == f"{SVG}style"]
    assert not re.findall("#[0-9a-f]{6}", svg)
    assert {"role", "aria-label", "viewBox"} <= set(root.attrib)
    identifiers = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(set(identifiers)) == len(identifiers)
    assert all(identifier.startswith("r1-speedup-") for identifier in identifiers)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
    assert {one or other for one, other in used} <= set(identifiers)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_shown_as_they_are_or_marked(name):
    shown = drawing.name(name)
    assert shown.isprintable()
    assert len(shown) <= 44
    if name.isprintable() and len(name) <= 44:
        assert shown == name


def test_ticks_that_have_no_room_are_left_out():
    sizes = tuple(range(1, 65))
    drawn = Plot("p", "P", Axis("batch size", "log", ticks=sizes), Axis("y"), plot((1, 1), (64, 2)).series, TABLE)
    ticks = drawing.figure(drawn).axes[0].get_xticks()
    assert 3 <= len(ticks) <= 10
    assert ticks[0] == 1
