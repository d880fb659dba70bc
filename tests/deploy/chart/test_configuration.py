"""What the chart writes is read by the code that it is for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import tools
from service import cli
from service.gateway.config import PoolConfig
from service.gateway.settings import FOREIGN_VARIABLES, PREFIX, Settings
from tests.deploy.chart.configuration import gateway_config, profile, profile_path
from tests.deploy.chart.pods import GATEWAY, RUNTIME, Pod, arguments, environment, of_component, pods, text_at
from tests.deploy.chart.render import CPU, Objects, each_values, of_kind, rendered, run
from tests.deploy.queries import ALERTS, DASHBOARDS, RULES, metrics_of, recorded
from tests.deploy.test_names import BY_PROMETHEUS, gateways, sglangs

KNOWN = {PREFIX + field.upper() for field in Settings.model_fields} | FOREIGN_VARIABLES


def pools(found: Objects) -> dict[str, tuple[PoolConfig, Pod]]:
    """Of the gateway's file, with the runtimes' pods."""
    runtimes = {pod.labels["aerie.dev/pool"]: pod for pod in of_component(found, RUNTIME)}
    return {pool.name: (pool, runtimes[pool.name]) for pool in gateway_config(found).pools}


@each_values
def test_every_variable_of_ours_is_known_to_the_gateway(values: Path) -> None:
    for pod in pods(rendered(values)):
        for container in pod.containers:
            ours = {name for name in environment(container) if name.startswith(PREFIX)}
            assert ours <= KNOWN, (str(pod), container["name"])


@each_values
def test_the_gateway_takes_its_command_line_and_listens_at_its_port(
    values: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pod,) = of_component(rendered(values), GATEWAY)
    for variable, value in environment(pod.main).items():
        monkeypatch.setenv(variable, value)
    started: list[Settings] = []
    monkeypatch.setattr(cli, "serve", started.append)
    program, *words = arguments(pod.main)
    assert (program, cli.main(words)) == ("aerie", 0)
    assert (started[0].host, started[0].port) == ("0.0.0.0", pod.main["ports"][0]["containerPort"])


@each_values
def test_a_runtime_takes_its_command_line_and_its_preflights(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `check` takes `runtime` takes too; this machine need not be the profile's."""
    found = rendered(values)
    monkeypatch.setattr(cli.preflight, "check", lambda config: None)
    for pod in of_component(found, RUNTIME):
        commands = [one for one in pod.containers if arguments(one)[0] == "aerie"]
        assert [arguments(one)[1] for one in commands] == ["check", "runtime"]
        for container in commands:
            there, here = profile_path(pod), tmp_path / "profile.yaml"
            here.write_text(text_at(found, pod, container, there))
            words = [word.replace(there, str(here)) for word in arguments(container)[2:]]
            assert cli.main(["check", *words]) == 0


@each_values
def test_the_gateways_pools_are_what_their_runtimes_are(values: Path) -> None:
    found = rendered(values)
    for pool, pod in pools(found).values():
        config = profile(found, pod)
        assert (pool.kind == "speculative") == config.speculation.enabled
        assert pool.max_in_flight <= config.max_running_requests


@each_values
def test_a_runtimes_profile_is_one_that_the_runtime_takes_and_fits_its_pod(values: Path) -> None:
    found = rendered(values)
    for pod in of_component(found, RUNTIME):
        config = profile(found, pod)
        limits = pod.main["resources"]["limits"]
        gpus = int(limits.get("nvidia.com/gpu", 0))
        nodes = pod.owner["spec"].get("leaderWorkerTemplate", {}).get("size", 1)
        assert config.nodes == nodes
        assert gpus * nodes == (config.tp_size * config.pp_size if config.device == "cuda" else 0)
        assert config.host in ("0.0.0.0", "::")
        assert config.port in {port["containerPort"] for port in pod.main["ports"]}


@each_values
def test_a_runtime_has_time_to_start_for_as_long_as_its_profile_says(values: Path) -> None:
    found = rendered(values)
    for pod in of_component(found, RUNTIME):
        if "startupProbe" in pod.main:
            probe = pod.main["startupProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= profile(found, pod).startup_budget_s


@each_values
def test_a_scaler_asks_for_metrics_that_exist_in_words_that_prometheus_takes(values: Path, tmp_path: Path) -> None:
    asked = [
        trigger["metadata"]["query"]
        for scaler in of_kind(rendered(values), "ScaledObject")
        for trigger in scaler["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    for query in asked:
        assert metrics_of(query)
        assert metrics_of(query) - gateways() - sglangs() - recorded() - BY_PROMETHEUS == set()
    check_rules(tmp_path, [{"record": f"a:b:{number}", "expr": query} for number, query in enumerate(asked)])


def check_rules(folder: Path, rules: list[dict[str, Any]]) -> None:
    """As promtool does."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    done = run(lambda: tools.find().promtool, "check", "rules", path)
    assert done.returncode == 0, done.stderr


@each_values
def test_rules_are_those_of_the_files(values: Path) -> None:
    files = [group for path in (RULES, ALERTS) for group in yaml.safe_load(path.read_text())["groups"]]
    shown = [group for one in of_kind(rendered(values), "PrometheusRule") for group in one["spec"]["groups"]]
    assert by_name(shown) in ({}, by_name(files))


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({group["name"] for group in groups}) == len(groups)
    return {group["name"]: without_links(group) for group in groups}


def without_links(group: dict[str, Any]) -> dict[str, Any]:
    """Where a runbook is differs from one installation to the next; that there is one does not."""
    rules = []
    for rule in group["rules"]:
        annotations = dict(rule.get("annotations", {}))
        assert "alert" not in rule or annotations["runbook_url"].endswith(f"#{rule['alert'].lower()}")
        annotations.pop("runbook_url", None)
        rules.append({**rule, "annotations": annotations})
    return {**group, "rules": rules}


@each_values
def test_dashboards_are_those_of_the_files_to_the_byte(values: Path) -> None:
    held = [one["data"] for one in of_kind(rendered(values), "ConfigMap")]
    shown = {key: text for data in held for key, text in data.items() if key.endswith(".json")}
    assert shown in ({}, {f"{json.loads(path.read_text())['uid']}.json": path.read_text() for path in DASHBOARDS})


def test_large_numbers_arrive_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A values file's numbers are floats to Helm, which would write them with an exponent."""
    written = {
        "gateway": {"settings": {"AERIE_BODY_LIMIT_BYTES": 8388608, "AERIE_STALL_TIMEOUT_S": 1.5, "AERIE_DOCS": False}},
        "runtime": {"profile": {"max_total_tokens": 2000000}},
        "pools": {"eagle": {"draft": {"version": 20260101}}},
    }
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(written))
    found = rendered(CPU, path)
    (gateway,) = of_component(found, GATEWAY)
    for variable, value in environment(gateway.main).items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert (settings.body_limit_bytes, settings.stall_timeout_s, settings.docs) == (8388608, 1.5, False)
    assert gateway_config(found).pools[0].version == "20260101"
    assert {profile(found, pod).max_total_tokens for pod in of_component(found, RUNTIME)} == {2000000}
