"""The command lines of the CPU profile's pods, started: gateway, runtimes' preflight, a runtime, `helm test`.

The pool `eagle` is the runtime that the test session has; `plain` is started from the chart.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.chart.machine import can_unshare, place, read_only_root
from tests.deploy.chart.pods import GATEWAY, RUNTIME, Pod, of_component, pods
from tests.deploy.chart.render import CPU, NAMESPACE, RELEASE, rendered
from tests.e2e.servers import Server

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
QUESTION = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}


def runtime_of(pool: str) -> Pod:
    (pod,) = [one for one in of_component(rendered(CPU), RUNTIME) if one.labels["aerie.dev/pool"] == pool]
    return pod


@pytest.fixture(scope="module")
def plain(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The baseline's runtime; the session's is started first, so that the model and the kernels are there."""
    pod = runtime_of("plain")
    container = place(rendered(CPU), pod, pod.main, tmp_path_factory.mktemp("plain"), {})
    with container.serving("/ready") as started:
        yield started


@pytest.fixture(scope="module")
def gateway(server: Server, plain: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    runtimes = {"eagle": server.runtime_port, "plain": plain.port}
    host = f"{RELEASE}-aerie-{{}}.{NAMESPACE}.svc.cluster.local:30000"
    hosts = {host.format(pool): f"127.0.0.1:{port}" for pool, port in runtimes.items()}
    (pod,) = of_component(rendered(CPU), GATEWAY)
    with place(rendered(CPU), pod, pod.main, tmp_path_factory.mktemp("gateway"), hosts).serving("/readyz") as started:
        yield started


def chat(gateway: Server, **headers: str) -> tuple[str, str]:
    """The pool that answered, and its answer."""
    body: dict[str, Any] = {"model": MODEL, "messages": [QUESTION], "temperature": 0, "max_tokens": 48}
    answer = gateway.client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-aerie-pool"].partition(";")[0], answer.json()["choices"][0]["message"]["content"]


def test_the_gateways_command_line_serves_both_pools(gateway: Server) -> None:
    (speculative, drafted), (baseline, plain) = chat(gateway), chat(gateway, **{"x-aerie-speculation": "off"})
    assert (speculative, baseline) == ("eagle", "plain")
    assert "Paris" in drafted
    assert "Paris" in plain


def test_a_runtimes_command_line_is_the_pools_own(plain: Server) -> None:
    info = plain.client.get(f"{plain.url}/server_info").json()
    assert info["served_model_name"] == MODEL
    assert info["speculative_algorithm"] is None


@pytest.mark.parametrize("pool", ["eagle", "plain"])
def test_preflight_finds_the_profile_in_order(pool: str, tmp_path: Path, server: Server) -> None:
    pod = runtime_of(pool)
    (container,) = [one for one in pod.spec["initContainers"] if one["name"] == "preflight"]
    done = place(rendered(CPU), pod, container, tmp_path, {"30000": "30999"}).run()
    assert done.returncode == 0, done.stderr
    algorithm = json.loads(done.stdout)["settings"]["speculation"]["algorithm"]
    assert algorithm == {"eagle": "EAGLE3", "plain": "NONE"}[pool]


def smoke(gateway: Server, folder: Path, model: str = MODEL) -> subprocess.CompletedProcess[str]:
    """The pod of `helm test`."""
    (pod,) = [one for one in pods(rendered(CPU)) if not one.long_lived]
    hosts = {f"http://{RELEASE}-aerie-gateway:80": gateway.url, f"--model={MODEL}": f"--model={model}"}
    return place(rendered(CPU), pod, pod.main, folder, hosts).run()


def test_helm_test_is_content_with_a_healthy_release(gateway: Server, tmp_path: Path) -> None:
    done = smoke(gateway, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        *("completion", "stream", "acceptance length", "metrics")
    ]


def test_helm_test_says_in_one_line_what_is_wrong(gateway: Server, tmp_path: Path) -> None:
    done = smoke(gateway, tmp_path, model="another")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "404" in done.stderr


@pytest.mark.skipif(not can_unshare(), reason="this machine does not let us make a root read-only")
def test_these_containers_could_not_write_their_root(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    for path, written in ((inside / "a", True), (outside, False)):
        done = subprocess.run([*read_only_root(inside), "touch", path], capture_output=True, check=False)
        assert (done.returncode == 0) is written is path.exists()
