"""The chart as Helm renders it, each question asked once in a session.

Owns how Helm is called, which values files there are and how its output becomes objects. Refuses to judge them.
"""

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import tools
from tests.deploy.queries import CHART

RELEASE, NAMESPACE = "demo", "inference"
PROFILES = sorted(CHART.glob("values-*.yaml"))
VALUES = [*PROFILES, *sorted((CHART / "ci").glob("*.yaml"))]
CPU = CHART / "values-cpu.yaml"
H100 = CHART / "values-h100.yaml"
AUTOSCALING = (
    'keda.prometheusAddress="http://prometheus:9090"',
    "monitoring.serviceMonitor.enabled=true",
    'pools.eagle.autoscaling={"enabled": true}',
)
"""Of the pool `eagle`, as `sets`, and what it wants."""

Object = dict[str, Any]
Objects = tuple[Object, ...]

each_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


class Loader(yaml.CSafeLoader):
    """A field given twice is an error, as it is to Kubernetes' strict decoding; Helm lets it through."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        assert not repeated, f"{repeated} given twice, {node.start_mark}"
        return super().construct_mapping(node, deep=deep)


def run(find: Callable[[], Path], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Of a program; the test is skipped where it cannot be had."""
    try:
        program = find()
    except tools.ToolsError as error:
        pytest.skip(str(error))
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def helm(*arguments: str | Path, major: int = 4) -> subprocess.CompletedProcess[str]:
    return run(functools.partial(tools.helm, major), *arguments)


def template(
    *values: Path, release: str = RELEASE, namespace: str = NAMESPACE, sets: tuple[str, ...] = (), major: int = 4
) -> subprocess.CompletedProcess[str]:
    """`helm template`; `sets` are `--set-json` arguments."""
    files = [part for path in values for part in ("--values", path)]
    overrides = [part for one in sets for part in ("--set-json", one)]
    return helm("template", release, CHART, "--namespace", namespace, *files, *overrides, major=major)


@functools.cache
def rendered(*values: Path, release: str = RELEASE, sets: tuple[str, ...] = (), major: int = 4) -> Objects:
    """The objects of a release, its test's included."""
    done = template(*values, release=release, sets=sets, major=major)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def objects(text: str) -> Objects:
    return tuple(found for found in yaml.load_all(text, Loader) if found is not None)


def name(found: Object) -> str:
    """`Kind/name`."""
    return f"{found['kind']}/{found['metadata']['name']}"


def of_kind(found: Objects, *kinds: str) -> list[Object]:
    return [one for one in found if one["kind"] in kinds]


@functools.cache
def defaults() -> dict[str, Any]:
    """values.yaml."""
    content: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return content


@functools.cache
def schema() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return content
