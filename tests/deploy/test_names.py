"""A metric renamed anywhere is a failing test, not an empty panel."""

import re
from pathlib import Path

import pytest

from service.gateway.metrics import Metrics
from tests.deploy.queries import Asked, everything, metrics_of, recorded

SGLANG = Path(__file__).with_name("sglang_metrics.txt")
BY_PROMETHEUS = {"up", "ALERTS"}


def of_families(types: list[tuple[str, str]]) -> set[str]:
    """Names as they are stored."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in types for part in parts.get(kind, ("",))}


def gateways() -> set[str]:
    families = Metrics().registry.collect()
    return of_families([(one.name + ("_total" if one.type == "counter" else ""), one.type) for one in families])


def sglangs() -> set[str]:
    """With a colon, or with an underscore in its place, as a Prometheus that asks for OpenMetrics may get them."""
    names = of_families(re.findall(r"^# TYPE (\S+) (\S+)$", SGLANG.read_text(), flags=re.MULTILINE))
    return names | {name.replace(":", "_") for name in names}


@pytest.mark.parametrize("asked", everything(), ids=lambda asked: asked.where)
def test_every_name_in_a_query_exists(asked: Asked) -> None:
    names = metrics_of(asked.expr)
    assert names
    assert names - gateways() - sglangs() - recorded() - BY_PROMETHEUS == set()


def test_names_are_found_in_a_query_and_labels_and_strings_are_none() -> None:
    expr = 'sum by (aerie_label) (rate(aerie_x_total{job="aerie_job",aerie_y="1"}[5m])) > on (pool) pool:aerie_z:sum'
    assert metrics_of(expr) == {"aerie_x_total", "pool:aerie_z:sum"}
