"""An upgrade under autoscaling keeps the replicas that the cluster has.

Helm 3 asks a scripted API server; Helm 4 would ask it for every kind that the chart has too.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.runtime.cache import cache_dir
from tests.deploy.chart.render import (
    AUTOSCALING,
    CHART,
    CPU,
    NAMESPACE,
    RELEASE,
    Object,
    helm,
    name,
    objects,
    of_kind,
)

KINDS = {
    "apps/v1": ("deployments", "Deployment"),
    "leaderworkerset.x-k8s.io/v1": ("leaderworkersets", "LeaderWorkerSet"),
}
NODES = CHART / "ci/multi-node-values.yaml"


class Cluster(ThreadingHTTPServer):
    """An API server with the workloads of a release. `replicas` by workload, of those that there are."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replicas: dict[str, int] = {}

    def answer(self, path: str) -> Object | None:
        """A version's kinds, or one object."""
        for version, (plural, kind) in KINDS.items():
            if path == f"/apis/{version}":
                resource = {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get"]}
                return {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}
            folder, _, workload = path.rpartition("/")
            if folder == f"/apis/{version}/namespaces/{NAMESPACE}/{plural}" and workload in self.replicas:
                spec = {"replicas": self.replicas[workload]}
                return {"apiVersion": version, "kind": kind, "metadata": {"name": workload}, "spec": spec}
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"} if path == "/version" else None


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        found = self.server.answer(self.path.partition("?")[0])
        body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("AERIE_CACHE_DIR", str(cache_dir()))  # where Helm is
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def upgraded(cluster: Cluster, values: Path, *sets: str) -> dict[str, int | None]:
    """Replicas by workload, as an upgrade would send them; None where it would say nothing."""
    overrides = [part for one in (*AUTOSCALING, *sets) for part in ("--set-json", one)]
    done = helm(
        *("template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values, *overrides),
        *("--dry-run=server", "--validate=false", "--kube-apiserver", f"http://127.0.0.1:{cluster.server_port}"),
        major=3,
    )
    assert done.returncode == 0, done.stderr
    workloads = of_kind(objects(done.stdout), "Deployment", "LeaderWorkerSet")
    return {name(one): one["spec"].get("replicas") for one in workloads}


def test_a_pool_under_autoscaling_keeps_its_replicas(cluster: Cluster) -> None:
    cluster.replicas = {"demo-aerie-eagle": 3, "demo-aerie-plain": 4, "demo-aerie-gateway": 6}
    found = upgraded(cluster, CPU, "gateway.autoscaling.enabled=true")
    assert found["Deployment/demo-aerie-eagle"] == 3
    assert found["Deployment/demo-aerie-gateway"] == 6
    assert found["Deployment/demo-aerie-plain"] == 1, "it is not under autoscaling"


def test_so_does_one_of_several_nodes(cluster: Cluster) -> None:
    cluster.replicas = {"demo-aerie-eagle": 2}
    assert upgraded(cluster, NODES)["LeaderWorkerSet/demo-aerie-eagle"] == 2


def test_it_has_at_least_its_smallest_number(cluster: Cluster) -> None:
    cluster.replicas = {"demo-aerie-eagle": 1}
    found = upgraded(cluster, CPU, "pools.eagle.autoscaling.minReplicas=2")
    assert found["Deployment/demo-aerie-eagle"] == 2


def test_what_is_not_there_yet_is_the_scalers(cluster: Cluster) -> None:
    assert upgraded(cluster, CPU)["Deployment/demo-aerie-eagle"] is None
