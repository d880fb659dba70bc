"""What KEDA asks Prometheus: replicas enough that none reaches the batch size at which speculation stops paying."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from scripts import tools
from service.gateway.batches import BATCH_SIZES
from tests.deploy.chart.render import AUTOSCALING, CPU, NAMESPACE, of_kind, rendered, run

BREAK_EVEN = {1: 1.1, 2: 1.2, 4: 1.5, 8: 2.0, 16: 3.0}
"""Acceptance length at which a batch size is as fast as plain decoding."""
LABELS = f'namespace="{NAMESPACE}",pool="eagle"'


class Case(NamedTuple):
    """32 requests at a pool whose runtimes take 16 at once, of which 0.8 shall be used."""

    needed: float
    acceptance_length: float | None = None
    calibrated: bool = True
    settings: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it


CASES = {
    "the largest batch size that gains 1.2 is 8": Case(32 / (0.8 * 8), 2.5),
    "a better draft lets replicas take more": Case(32 / (0.8 * 16), 3.6),
    "a worse one less": Case(32 / (0.8 * 2), 1.5),
    "a draft that pays nowhere costs no GPUs": Case(32 / (0.8 * 16), 1.0),
    "without a calibration nobody knows": Case(32 / (0.8 * 16), 2.5, calibrated=False),
    "or the operator says it": Case(32 / (0.8 * 4), 2.5, calibrated=False, settings={"batchSize": 4}),
    "a bound that is easier to meet": Case(32 / (0.8 * 8), 2.0, settings={"minSpeedup": 1}),
    "nothing is accepted where nothing ran": Case(32 / (0.8 * 16)),
}


def series(case: Case) -> list[dict[str, str]]:
    """Of two gateways, for three minutes."""
    found = {
        f'aerie_upstream_requests_in_flight{{{LABELS},instance="a"}}': 20.0,
        f'aerie_upstream_requests_in_flight{{{LABELS},instance="b"}}': 10.0,
        f'aerie_queue_waiting_requests{{{LABELS},instance="a"}}': 2.0,
        f'aerie_upstream_requests_in_flight{{namespace="{NAMESPACE}",pool="plain",instance="a"}}': 100.0,
    }
    if case.acceptance_length is not None:
        found[f"pool:aerie_spec_acceptance_length:ratio_rate5m{{{LABELS}}}"] = case.acceptance_length
    if case.calibrated:
        name = "aerie_spec_break_even_acceptance_length"
        found |= {f'{name}{{{LABELS},batch_size="{size}"}}': length for size, length in BREAK_EVEN.items()}
    return [{"series": name, "values": f"{value}x3"} for name, value in found.items()]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pool_scales_before_speculation_stops_paying(case: Case, tmp_path: Path) -> None:
    settings = json.dumps({"enabled": True, **case.settings})
    sets = (*AUTOSCALING, f"pools.eagle.autoscaling={settings}")
    (scaler,) = of_kind(rendered(CPU, sets=sets), "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    expected = [{"labels": "{}", "value": case.needed}]
    asked = [{"expr": trigger["metadata"]["query"], "eval_time": "2m", "exp_samples": expected}]
    test = {"interval": "1m", "input_series": series(case), "promql_expr_test": asked}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    done = run(lambda: tools.find().promtool, "test", "rules", path)
    assert done.returncode == 0, done.stderr
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["threshold"] == "1"


def test_the_batch_sizes_that_are_tried_are_those_of_the_gateway() -> None:
    (scaler,) = of_kind(rendered(CPU, sets=(*AUTOSCALING, "runtime.profile.max_running_requests=256")), "ScaledObject")
    query = scaler["spec"]["triggers"][0]["metadata"]["query"]
    assert [size for size in BATCH_SIZES if f'batch_size="{size}"' not in query] == []
