"""An upgrade never meets a field that Kubernetes does not let change, and restarts no pod without need."""

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart.pods import RUNTIME, of_component, pods
from tests.deploy.chart.render import (
    AUTOSCALING,
    CHART,
    CPU,
    H100,
    NAMESPACE,
    PROFILES,
    RELEASE,
    Object,
    Objects,
    helm,
    name,
    objects,
    rendered,
)
from tests.deploy.queries import ROOT

IMMUTABLE = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
    "Service": ("clusterIP", "ipFamilyPolicy"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "volumeName"),
    "LeaderWorkerSet": ("leaderWorkerTemplate.size",),
}
CHANGES = {
    "a draft's version": 'pools.eagle.draft.version="2"',
    "a weight": "pools.eagle.weight=0.1",
    "replicas": "pools.eagle.replicas=3",
    "a tree": "pools.eagle.speculation.draft_p_min=null",
    "an image": 'gateway.image.tag="2"',
    "autoscaling": ",".join(AUTOSCALING),
    "gateways": "gateway.replicas=5",
    "labels": 'commonLabels={"team": "a"}',
    "a policy": 'gateway.policy={"baseline_share": 0.02}',
}
RESTARTS = {"a tree": {"eagle"}, "labels": {"eagle", "plain"}}
"""Runtimes whose pods a change replaces: minutes each, so whatever else does is a mistake."""


def field(found: Object, path: str) -> Any:
    value: Any = found["spec"]
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def immutable(found: Objects) -> dict[str, dict[str, Any]]:
    return {
        name(one): {path: field(one, path) for path in IMMUTABLE[one["kind"]]}
        for one in found
        if one["kind"] in IMMUTABLE
    }


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_values_changes_nothing_immutable(change: str) -> None:
    before, after = immutable(rendered(CPU)), immutable(rendered(CPU, sets=(change,)))
    assert {one: after[one] for one in before if one in after} == {one: before[one] for one in before if one in after}
    assert before.keys() <= after.keys(), "something would be deleted"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_moving_from_one_profile_to_another_changes_nothing_immutable(profile: Any) -> None:
    before, after = immutable(rendered(H100)), immutable(rendered(profile))
    both = before.keys() & after.keys()
    assert both
    assert {one: after[one] for one in both} == {one: before[one] for one in both}


def templates(found: Objects) -> dict[str, Any]:
    """Of the runtimes' pods, by pool: another text is another pod."""
    return {pod.labels["aerie.dev/pool"]: pod.owner["spec"]["template"] for pod in of_component(found, RUNTIME)}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_a_runtime_must_restart_for_restarts_it(change: str) -> None:
    before, after = templates(rendered(CPU)), templates(rendered(CPU, sets=(CHANGES[change],)))
    assert {pool for pool in before if before[pool] != after[pool]} == RESTARTS.get(change, set())


def test_a_gateway_restarts_for_no_change_that_it_reads_from_its_file() -> None:
    def gateway(found: Objects) -> Any:
        return next(pod.owner["spec"]["template"] for pod in pods(found) if pod.component == "gateway")

    for change in ("a weight", "a policy", "a draft's version", "a tree"):
        assert gateway(rendered(CPU, sets=(CHANGES[change],))) == gateway(rendered(CPU)), change


def test_an_upgrade_from_the_last_release_changes_nothing_immutable(tmp_path: Path) -> None:
    """Of the chart as its tag has it."""
    chart = last_release(tmp_path)
    values = chart / CPU.name
    before = immutable(objects(helm("template", RELEASE, chart, "--namespace", NAMESPACE, "--values", values).stdout))
    after = immutable(rendered(CPU))
    assert before
    assert {one: after.get(one) for one in before} == before


def last_release(folder: Path) -> Path:
    """Its chart, taken out of the repository; the test is skipped where no tag has one."""
    path = CHART.relative_to(ROOT)
    tags = git("tag", "--list", "v*", "--sort=-version:refname").split()
    tags = [tag for tag in tags if git("ls-tree", tag, f"{path}/Chart.yaml")]
    if not tags:
        pytest.skip("no release of this repository has the chart")
    (folder / "chart.tar").write_bytes(
        subprocess.run(["git", "archive", tags[0], path], cwd=ROOT, capture_output=True, check=True).stdout
    )
    with tarfile.open(folder / "chart.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder / path


def git(*words: str) -> str:
    """Empty outside a repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout
