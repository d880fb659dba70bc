"""Every object is what Kubernetes, or the operator whose kind it is, takes."""

import functools
import re
import tempfile
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from scripts import tools
from tests.deploy.chart.pods import pods
from tests.deploy.chart.render import NAMESPACE, VALUES, Object, each_values, name, rendered, run

KUBERNETES = ("1.30", "1.33", "1.37")
"""The oldest that the chart allows, one in between, the newest that the package has schemas of."""
OPERATORS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {"endpoints", "selector"},
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups"},
    ("keda.sh/v1alpha1", "ScaledObject"): {"scaleTargetRef", "triggers"},
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): {"leaderWorkerTemplate"},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {"parentRefs", "rules"},
}
"""Kinds that are not Kubernetes' own, and the fields of their spec without which they would be refused."""

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

# the definitions, 1 MB, are read for every object otherwise
utils.schema_contents = functools.cache(utils.schema_contents)


def of_operators(found: Object) -> bool:
    return (found["apiVersion"], found["kind"]) in OPERATORS


@pytest.mark.parametrize("version", KUBERNETES)
@each_values
def test_kubernetes_schemas_know_every_field(values: Path, version: str) -> None:
    for found in rendered(values):
        if not of_operators(found) and not (version == KUBERNETES[0] and has_image_volumes(found)):
            assert complaint(found, version) is None


def complaint(found: Object, version: str) -> str | None:
    """Of the schemas, in one line."""
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{name(found)}: {error.json_path}: {error.message}"
    return None


def has_image_volumes(found: Object) -> bool:
    """Which are younger than the oldest Kubernetes; Chart.yaml says so."""
    return any("image" in volume for pod in pods((found,)) for volume in pod.spec.get("volumes", []))


def test_a_field_that_kubernetes_does_not_know_would_be_seen() -> None:
    service: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert complaint(service, KUBERNETES[0]) is None
    assert "port" in str(complaint({**service, "spec": {"port": 80}}, KUBERNETES[0]))


@each_values
def test_kubectl_reads_every_workload_with_kubernetes_own_types(values: Path) -> None:
    """Quantities, for one, are strings to a schema."""
    workloads = [pod.owner for pod in pods(rendered(values)) if not of_operators(pod.owner)]
    assert workloads
    assert {name(one) for one in through_kubectl(workloads)} == {name(one) for one in workloads}


def through_kubectl(workloads: list[Object]) -> list[Object]:
    """As kubectl writes them when it was told to set a variable; no cluster is asked."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(workloads, file)
        file.flush()
        done = run(tools.kubectl, "set", "env", "--local", "--filename", file.name, "A=b", "--output=yaml")
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_a_quantity_that_is_none_would_be_seen() -> None:
    container = {"name": "a", "image": "b", "resources": {"limits": {"memory": "4 GB"}}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
    with pytest.raises(AssertionError, match="quantities"):
        through_kubectl([pod])


@each_values
def test_an_operators_object_has_what_the_operator_needs(values: Path) -> None:
    for found in rendered(values):
        if of_operators(found):
            needed = OPERATORS[found["apiVersion"], found["kind"]]
            assert all(found["spec"].get(field) for field in needed), name(found)


def test_the_values_files_together_show_every_operators_kind() -> None:
    shown = {(found["apiVersion"], found["kind"]) for values in VALUES for found in rendered(values)}
    assert set(OPERATORS) <= shown


@each_values
def test_names_and_labels_are_valid_and_no_two_objects_are_one(values: Path) -> None:
    found = rendered(values)
    assert len({name(one) for one in found}) == len(found)
    for one in found:
        check_names(one)


def check_names(found: Object) -> None:
    """Stricter than Kubernetes for some kinds: a name that fits a Service fits all."""
    metadata = found["metadata"]
    assert DNS_LABEL.fullmatch(metadata["name"]), name(found)
    assert metadata.get("namespace", NAMESPACE) == NAMESPACE
    for key, value in metadata["labels"].items():
        assert LABEL.fullmatch(value), (name(found), key)


@each_values
def test_every_object_has_the_recommended_labels(values: Path) -> None:
    for found in rendered(values):
        names = {"name", "instance", "version", "component", "managed-by", "part-of"}
        assert {f"app.kubernetes.io/{one}" for one in names} | {"helm.sh/chart"} <= set(found["metadata"]["labels"])
