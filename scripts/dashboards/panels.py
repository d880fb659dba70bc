"""The one look of every dashboard: what a panel is, and its JSON for Grafana.

Owns Grafana's words (panel types, field options, the grid, variables). Refuses to own questions and queries: those are
the dashboards' (speculation.py, service.py, fleet.py, draft_quality.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Kind = Literal["stat", "timeseries", "bargauge", "state-timeline", "table"]

GRID_WIDTH = 24
SCHEMA_VERSION = 41  # of Grafana 11.6
OF_NAMESPACE = 'namespace=~"$namespace"'
"""A selector: what the reader has chosen."""
OF_POOL = OF_NAMESPACE + ',pool=~"$pool"'
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
DASHED: Json = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 6]}}


@dataclass(frozen=True)
class Query:
    """PromQL, and what a series is called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A question, the queries that answer it, and what to do about the answer."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    bad_below: float | None = None
    """Below it the value is red; lines get a mark there."""
    bad_above: float | None = None
    stacked: bool = False
    words: tuple[tuple[str, str, str], ...] = ()
    """Value, word and colour, where a number stands for a word."""
    columns: tuple[str, ...] = ()
    """Labels that a table shows."""


@dataclass(frozen=True)
class Dashboard:
    """Panels in reading order."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    since: str = "now-6h"
    refresh: str = "30s"


def dashboard_json(dashboard: Dashboard) -> Json:
    """What Grafana imports."""
    places = grid([(panel.width, panel.height) for panel in dashboard.panels])
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["aerie"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": dashboard.refresh,
        "time": {"from": dashboard.since, "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "annotations": {"list": [_annotation()]},
        "links": [_link()],
        "panels": [
            panel_json(number, panel, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, places, strict=True), start=1)
        ],
    }


def grid(sizes: Sequence[tuple[int, int]]) -> Iterator[Json]:
    """Places for boxes of such (width, height): left to right, then in a new row."""
    x = y = row_height = 0
    for width, height in sizes:
        if x + width > GRID_WIDTH:
            x, y, row_height = 0, y + row_height, 0
        yield {"x": x, "y": y, "w": width, "h": height}
        x, row_height = x + width, max(row_height, height)


def panel_json(number: int, panel: Panel, place: Json) -> Json:
    """One panel."""
    made: Json = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [_target(chr(ord("A") + index), query, panel) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _field(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
    }
    if panel.kind == "table":
        made["transformations"] = [_only_columns(panel.columns)]
    return made


def _target(ref: str, query: Query, panel: Panel) -> Json:
    at_once = panel.kind in ("stat", "bargauge", "table")
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": at_once,
        "range": not at_once,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _field(panel: Panel) -> Json:
    plain = panel.bad_below is None and panel.bad_above is None
    by_threshold = panel.kind in ("stat", "bargauge", "state-timeline") and not plain
    field: Json = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if by_threshold else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
        "mappings": [_mapping(panel.words)] if panel.words else [],
    }
    limits = {"decimals": panel.decimals, "min": panel.minimum, "max": panel.maximum}
    field |= {name: limit for name, limit in limits.items() if limit is not None}
    if panel.kind == "timeseries":
        field["custom"] = _lines(panel, plain=plain)
    if panel.kind == "state-timeline":
        field["custom"] = {"fillOpacity": 80, "lineWidth": 0}
    return field


def _steps(panel: Panel) -> list[Json]:
    if panel.bad_below is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    steps: list[Json] = [{"color": "green", "value": None}]
    return steps if panel.bad_above is None else [*steps, {"color": "red", "value": panel.bad_above}]


def _mapping(words: tuple[tuple[str, str, str], ...]) -> Json:
    return {
        "type": "value",
        "options": {value: {"text": word, "color": color, "index": n} for n, (value, word, color) in enumerate(words)},
    }


def _lines(panel: Panel, *, plain: bool) -> Json:
    return {
        "drawStyle": "line",
        "lineWidth": 2,
        "fillOpacity": 40 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if plain else "dashed"},
    }


def _overrides(panel: Panel) -> list[Json]:
    """What is compared with is dashed: its legend says so."""
    if panel.kind != "timeseries":
        return []
    return [{"matcher": {"id": "byRegexp", "options": "/break-even|week before/"}, "properties": [DASHED]}]


def _options(panel: Panel) -> Json:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    options: dict[Kind, Json] = {
        "timeseries": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": {"reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "textMode": "auto"},
        "bargauge": {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"},
        "state-timeline": {"legend": legend, "tooltip": {"mode": "single", "sort": "none"}, "showValue": "never"},
        "table": {"showHeader": True, "cellHeight": "sm"},
    }
    return options[panel.kind]


def _only_columns(columns: tuple[str, ...]) -> Json:
    return {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}}


def variables() -> list[Json]:
    """What a reader chooses: where from, which namespace, which pools."""
    source: Json = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [
        source | {"hide": 0, "multi": False, "includeAll": False},
        _labels("namespace", "Namespace", "label_values(aerie_pool_info, namespace)"),
        _labels("pool", "Pool", 'label_values(aerie_pool_info{namespace=~"$namespace"}, pool)'),
    ]


def _labels(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # which an absent label matches too
        "current": {"text": "All", "value": "$__all"},
    }


def _annotation() -> Json:
    """When one of our alerts fired."""
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Aerie.*",alertstate="firing",namespace=~"$namespace"}',
    }


def _link() -> Json:
    """To the other dashboards."""
    return {
        "type": "dashboards",
        "title": "Aerie",
        "tags": ["aerie"],
        "asDropdown": True,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }
