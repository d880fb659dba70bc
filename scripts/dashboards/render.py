"""A dashboard's picture: every panel's queries asked of a real Prometheus and drawn; Grafana is not needed.

`python -m scripts.dashboards.render URL FOLDER --minutes 10`. Reads the same JSON that Grafana imports, and owns how it
looks in matplotlib. Refuses to own the questions (the JSON's) and the data (Prometheus's).
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # no display; before pyplot is imported

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from scripts.dashboards.__main__ import FOLDER
from scripts.dashboards.prometheus import Prometheus, Series, resolve

Json = dict[str, Any]
Named = list[tuple[str, Series]]

POINTS = 240
ROW_INCHES, COLUMN_INCHES = 0.42, 0.62
GREEN, RED, GREY = "#2a9d4a", "#d1382c", "#7a7f87"
COLORS = ("#3366cc", "#e08214", "#1b9e77", "#9c4dcc", "#d1382c", "#17a2b8", "#8c6d31", "#e377c2", "#5c6670", "#a6d854")
MOST_ROWS = 10
TICK_INCHES = 0.8
TICKS_S = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800)


@dataclass(frozen=True)
class Window:
    """From when to when, in Unix time."""

    start: float
    end: float

    @property
    def step_s(self) -> float:
        """Between two points of a line."""
        return max((self.end - self.start) / POINTS, 1)


def render(prometheus: Prometheus, source: Path, target: Path, window: Window) -> None:
    """Draw one dashboard's JSON to a PNG."""
    dashboard = json.loads(source.read_text())
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * COLUMN_INCHES, (rows + 1) * ROW_INCHES), dpi=100, facecolor="white")
    top = 1 - 0.8 / (rows + 1)
    figure.text(0.012, 1 - 0.3 / (rows + 1), dashboard["title"], fontsize=15, weight="bold", va="top")
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        bottom, height = top * (1 - (place["y"] + place["h"]) / rows), top * place["h"] / rows
        # in inches, so that a small panel's margins are as wide as a large one's
        x, y = 1 / (24 * COLUMN_INCHES), 1 / ((rows + 1) * ROW_INCHES)
        drawn = figure.add_axes((left + 0.62 * x, bottom + 0.62 * y, width - 0.85 * x, height - 1.12 * y))
        draw(drawn, panel, ask(prometheus, panel, window))
    figure.savefig(target)
    plt.close(figure)


def ask(prometheus: Prometheus, panel: Json, window: Window) -> Named:
    """A panel's series with their names, in the order of its queries."""
    found: Named = []
    for query in panel["targets"]:
        expr = resolve(query["expr"], rate_interval=f"{max(int(4 * window.step_s), 15)}s")
        instant = query["instant"]
        series = prometheus.now(expr) if instant else prometheus.between(expr, window.start, window.end, window.step_s)
        found += [(name(query["legendFormat"], one.labels), one) for one in series]
    return found


def name(legend: str, labels: dict[str, str]) -> str:
    """A series' name as its query's legend says."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), legend).strip()


def draw(axes: Axes, panel: Json, named: Named) -> None:
    """Title and answer; `no data` where there is none."""
    axes.set_title(panel["title"], loc="left", fontsize=10, weight="bold", pad=6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not named:
        _blank(axes)
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=GREY, transform=axes.transAxes)
        return
    drawers: dict[str, Callable[[Axes, Json, Named], None]] = {
        "timeseries": _lines,
        "stat": _stat,
        "bargauge": _bars,
        "state-timeline": _states,
        "table": _table,
    }
    drawers[panel["type"]](axes, panel, named)


def _lines(axes: Axes, panel: Json, named: Named) -> None:
    field = panel["fieldConfig"]["defaults"]
    if field["custom"]["stacking"]["mode"] == "normal":
        _stack(axes, named)
    else:
        dashed = re.compile(panel["fieldConfig"]["overrides"][0]["matcher"]["options"].strip("/"))
        for index, (label, series) in enumerate(named):
            style = "--" if dashed.search(label) else "-"
            times, values = zip(*series.points, strict=True)
            axes.plot(_dates(times), values, style, lw=1.8, color=COLORS[index % len(COLORS)], label=label)
    if field["custom"]["thresholdsStyle"]["mode"] != "off":
        axes.axhline(field["thresholds"]["steps"][1]["value"], color=RED, lw=1, ls=(0, (4, 3)))
    _limits(axes, field)
    _clock(axes)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, field))
    axes.tick_params(labelsize=8, colors=GREY)
    axes.grid(color="#e3e5e8", lw=0.7)
    columns = min(len(named), 4 if panel["gridPos"]["w"] > 8 else 2)
    axes.legend(fontsize=7.5, ncols=columns, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _stack(axes: Axes, named: Named) -> None:
    times = sorted({moment for _, series in named for moment, _ in series.points})
    by_time = [dict(series.points) for _, series in named]
    rows = [[values.get(moment, 0.0) for moment in times] for values in by_time]
    axes.stackplot(_dates(times), rows, labels=[label for label, _ in named], colors=COLORS, alpha=0.75)


def _limits(axes: Axes, field: Json) -> None:
    low, high = axes.get_ylim()
    low, high = field.get("min", low), field.get("max", max(high, field.get("min", high) + 1e-9) * 1.05)
    axes.set_ylim(low, high if high > low else low + 1)


def _stat(axes: Axes, panel: Json, named: Named) -> None:
    _blank(axes)
    field = panel["fieldConfig"]["defaults"]
    for index, (label, series) in enumerate(named):
        value = series.points[-1][1]
        x = (index + 0.5) / len(named)
        size = 25 if len(named) < 3 else 18
        color = _color(value, field) if field["color"]["mode"] == "thresholds" else GREEN
        axes.text(x, 0.55, shown(value, field), size=size, weight="bold", color=color, ha="center", va="center")
        place: Json = {"size": 8, "color": GREY, "ha": "center", "va": "center"}
        axes.annotate(label, (x, 0.55), xytext=(0, -26), textcoords="offset points", **place)


def _bars(axes: Axes, panel: Json, named: Named) -> None:
    field = panel["fieldConfig"]["defaults"]
    kept = named[:MOST_ROWS]
    values = [series.points[-1][1] for _, series in kept]
    axes.barh([label for label, _ in kept], values, color=COLORS[0])
    for index, value in enumerate(values):
        axes.text(value, index, f" {shown(value, field)}", va="center", fontsize=8)
    axes.set_xlim(field.get("min", 0), field.get("max"))
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=8, length=0)
    left, bottom, width, height = axes.get_position().bounds
    axes.set_position((left + 0.1 * width, bottom, 0.85 * width, height))  # room for the names


def _states(axes: Axes, panel: Json, named: Named) -> None:
    field = panel["fieldConfig"]["defaults"]
    for row, (label, series) in enumerate(named):
        width = (series.points[-1][0] - series.points[0][0]) / max(len(series.points) - 1, 1) / 86400
        spans = [(float(_dates([moment])[0]), width) for moment, _ in series.points]
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=[_color(value, field) for _, value in series.points])
        axes.text(spans[0][0], row, f" {label}", va="center", fontsize=8, color="white")
    axes.set_yticks([])
    axes.xaxis_date()
    _clock(axes)
    axes.tick_params(labelsize=8, colors=GREY)


def _clock(axes: Axes) -> None:
    """Times at round intervals, as many as there is room for."""
    low, high = (day * 86400 for day in axes.get_xlim())
    room = axes.get_position().width * 24 * COLUMN_INCHES / TICK_INCHES
    step = next((step for step in TICKS_S if (high - low) / step <= room), TICKS_S[-1])
    first = -(-low // step) * step
    axes.set_xticks(_dates([first + number * step for number in range(int((high - first) // step) + 1)]))
    pattern = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
    axes.xaxis.set_major_formatter(mdates.DateFormatter(pattern))  # type: ignore[no-untyped-call]


def _table(axes: Axes, panel: Json, named: Named) -> None:
    _blank(axes)
    columns = panel["transformations"][0]["options"]["include"]["names"]
    rows = [[series.labels.get(column, "") for column in columns] for _, series in named[:MOST_ROWS]]
    table = axes.table(rows, colLabels=columns, loc="upper left", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(value=False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(columns))))
    table.scale(1, 1.4)


def _blank(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _color(value: float, field: Json) -> str:
    reached = [
        step["color"] for step in field["thresholds"]["steps"] if step["value"] is None or value >= step["value"]
    ]
    return {"green": GREEN, "red": RED}[reached[-1]]


def shown(value: float, field: Json) -> str:
    """A value in its unit, as Grafana would write it."""
    for mapping in field["mappings"]:
        if (word := mapping["options"].get(f"{value:g}")) is not None:
            return str(word["text"])
    unit, decimals = field["unit"], field.get("decimals")
    if unit == "percentunit":
        return f"{value * 100:.{decimals or 0}f}%"
    if unit == "s":
        return _duration(value)
    text = f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"
    return text + {"reqps": " req/s", "cps": "/s", "short": ""}.get(unit, str(unit).removeprefix("suffix:"))


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def _dates(times: Any) -> Any:  # noqa: ANN401 - matplotlib's floats
    return [moment / 86400 for moment in times]  # matplotlib's epoch is Unix's


def main() -> None:
    """Draw every dashboard."""
    parser = argparse.ArgumentParser(description="Draw the dashboards with what a Prometheus has.")
    parser.add_argument("url", help="Prometheus, with the chart's rules")
    parser.add_argument("folder", type=Path, help="for one PNG a dashboard")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (60)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    window = Window(time.time() - 60 * options.minutes, time.time())
    for source in sorted(FOLDER.glob("*.json")):
        render(Prometheus(options.url), source, options.folder / f"{source.stem}.png", window)


if __name__ == "__main__":
    main()
