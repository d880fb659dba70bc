"""Pods as a node would see them: what a template mounts, names, and where its files come from.

Owns reading rendered pod templates. Refuses to judge them.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tests.deploy.chart.render import Object, Objects, name, of_kind

GATEWAY, RUNTIME = "gateway", "runtime"
COMPONENT = "app.kubernetes.io/component"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
BY_LEADER_WORKER_SET = {"LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "leader", "LWS_GROUP_SIZE": "2"}
"""Label and variables that the operator adds to a pod."""


class Pod(NamedTuple):
    """A pod template and what makes pods of it."""

    owner: Object
    labels: dict[str, str]
    spec: dict[str, Any]

    def __str__(self) -> str:
        return name(self.owner)

    @property
    def component(self) -> str:
        return self.labels[COMPONENT]

    @property
    def main(self) -> dict[str, Any]:
        """The container that serves: the first."""
        container: dict[str, Any] = self.spec["containers"][0]
        return container

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Of any kind, in the order they start."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def long_lived(self) -> bool:
        return self.owner["kind"] not in ("Job", "Pod")


def pods(found: Objects) -> list[Pod]:
    """Every pod template of a release."""
    return [Pod(owner, labels, spec) for owner in found for labels, spec in _templates(owner)]


def _templates(owner: Object) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    if owner["kind"] == "Pod":
        yield owner["metadata"].get("labels", {}), owner["spec"]
    elif owner["kind"] == "LeaderWorkerSet":
        group = owner["spec"]["leaderWorkerTemplate"]
        for index, template in enumerate(
            (group.get("leaderTemplate", group["workerTemplate"]), group["workerTemplate"])
        ):
            yield {**template["metadata"]["labels"], WORKER_INDEX: str(index)}, template["spec"]
    elif owner["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        template = owner["spec"]["template"]
        yield template["metadata"].get("labels", {}), template["spec"]


def of_component(found: Objects, component: str) -> list[Pod]:
    return [pod for pod in pods(found) if pod.long_lived and pod.component == component]


def selects(selector: dict[str, str], pod: Pod) -> bool:
    return selector.items() <= pod.labels.items()


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Variables with their values; those that come from elsewhere are empty."""
    return {one["name"]: one.get("value", "") for one in container.get("env", [])}


def arguments(container: dict[str, Any]) -> list[str]:
    """The whole command line, with `$(VARIABLE)` as the kubelet replaces it."""
    known = {**BY_LEADER_WORKER_SET, **environment(container)}
    words = [*container.get("command", []), *container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], word) for word in words]


def option(container: dict[str, Any], flag: str) -> str | None:
    """What a command line gives as `--flag=value`."""
    given = [word.partition("=")[2] for word in arguments(container) if word.startswith(f"{flag}=")]
    return given[0] if given else None


def text_at(found: Objects, pod: Pod, container: dict[str, Any], path: str) -> str:
    """What a container reads at a path that a ConfigMap of the release is mounted at."""
    for mount in container["volumeMounts"]:
        inside = _inside(mount, path)
        volume = next(one for one in pod.spec["volumes"] if one["name"] == mount["name"])
        if inside is not None and "configMap" in volume:
            return config_map(found, volume["configMap"]["name"])["data"][_key(volume["configMap"], inside)]
    raise AssertionError(f"{pod}: nothing of the release is at {path}")


def _inside(mount: dict[str, Any], path: str) -> str | None:
    """The path within the volume."""
    if "subPath" in mount:
        return mount["subPath"] if mount["mountPath"] == path else None
    within = PurePosixPath(path)
    return str(within.relative_to(mount["mountPath"])) if within.is_relative_to(mount["mountPath"]) else None


def _key(source: dict[str, Any], path: str) -> str:
    return {item["path"]: item["key"] for item in source.get("items", [])}.get(path, path)


def config_map(found: Objects, named: str) -> Object:
    return next(one for one in of_kind(found, "ConfigMap") if one["metadata"]["name"] == named)


def port_number(container: dict[str, Any], port: int | str) -> int:
    """What a port is, given by number or by name."""
    if isinstance(port, int):
        return port
    return next(one["containerPort"] for one in container.get("ports", []) if one.get("name") == port)
