"""What deploy/, the runbook and the table of metrics ask Prometheus: every query as it stands in the files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "aerie"
RULES = CHART / "rules" / "aerie.rules.yaml"
ALERTS = CHART / "rules" / "aerie.alerts.yaml"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
RUNBOOK = ROOT / "docs" / "runbook.md"
METRICS = ROOT / "docs" / "metrics.md"
METRIC = re.compile(r"\b(?:aerie_|sglang[:_]|ALERTS\b|up\b)\w*|\b\w+:(?:aerie|sglang)_\w+:\w+")


class Asked(NamedTuple):
    """A query and where it is asked."""

    where: str
    expr: str


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alert_id(labels: dict[str, str], name: str) -> str:
    """Rules of one alert differ in a label."""
    return " ".join([name, *(labels[key] for key in ("measure", "target") if key in labels)])


def recorded() -> set[str]:
    return {rule["record"] for rule in rules(RULES)}


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return found


def of_rules() -> Iterator[Asked]:
    yield from (Asked(rule["record"], rule["expr"]) for rule in rules(RULES))


def of_alerts() -> Iterator[Asked]:
    yield from (Asked(alert_id(rule["labels"], rule["alert"]), rule["expr"]) for rule in rules(ALERTS))


def of_dashboards() -> Iterator[Asked]:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield Asked(f"{path.stem}: {panel['title']} {target['refId']}", target["expr"])
        content = json.loads(path.read_text())
        yield from (Asked(f"{path.stem}: annotation", one["expr"]) for one in content["annotations"]["list"])


def of_runbook() -> Iterator[Asked]:
    for name, text in sections().items():
        for block in re.findall(r"```promql\n(.*?)```", text, flags=re.DOTALL):
            yield from (Asked(f"runbook: {name}", line) for line in block.splitlines() if line.strip())


def of_metrics() -> Iterator[Asked]:
    """The last column of the table of metrics."""
    rows = re.findall(r"^\| `(aerie_\w+)` \|.*\| `(.*)` \|$", METRICS.read_text(), flags=re.MULTILINE)
    yield from (Asked(f"metric: {name}", expr) for name, expr in rows)


def everything() -> list[Asked]:
    return [*of_rules(), *of_alerts(), *of_dashboards(), *of_runbook(), *of_metrics()]


def sections() -> dict[str, str]:
    """The runbook's, by name."""
    parts = re.split(r"^## (\w+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def metrics_of(expr: str) -> set[str]:
    """Names of metrics and recorded rules in a query; never those of labels or in strings."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", r"\1", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(METRIC.findall(bare))
