"""Nothing is lost while gateways, runtimes and drafts are replaced under load: every request has one whole answer."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.balancer import Balancer, Load, whole_text
from tests.e2e.servers import Server, aerie, gateway, prompts
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import samples, summed, until
from tests.service.gateway.scripted_upstream import MODEL, Release, Script, ScriptedUpstream, served
from tests.service.gateway.test_drain import Streaming, process

CLIENTS = 4
TOKENS = 8
NOTICE = {"drain_notice_s": 1, "drain_timeout_s": 60, "log_level": "error"}
"""A second is twenty looks of the balancer."""


def question(number: int) -> dict[str, Any]:
    """Another conversation each time: each has a pool of its own."""
    content = f"{number}. {prompts()[number % len(prompts())]}"
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS}


def test_a_gateway_is_replaced_and_no_request_is_lost() -> None:
    upstream, release = ScriptedUpstream(), Release()
    with (
        served(upstream) as runtime,
        process(runtime, **NOTICE) as (old, at_old),
        process(runtime, **NOTICE) as (_, at_new),
    ):
        balancer = Balancer(str(at_old.base_url), str(at_new.base_url))
        with balancer.serving() as url:
            until(lambda: balancer.sees(str(at_old.base_url), str(at_new.base_url)), "both gateways' readiness")
            upstream.script = Script(steps=[wire.chunk("a", "Red"), release, *wire.stream_of("a", texts=[" end"])])
            long = [Streaming(at_old.base_url, question(-number)) for number in range(1, 5)]
            assert all(stream.began.wait(20) for stream in long)
            upstream.script = Script()

            load = Load(url, CLIENTS, question)
            with load.running():
                load.pools_of(20)
                old.send_signal(signal.SIGTERM)
                load.pools_of(20)
                until(lambda: balancer.sees(str(at_new.base_url)), "the old gateway's end of service")
                until(lambda: not listens(at_old), "the end of its listener")
                load.pools_of(200)
                assert old.poll() is None, "streams still run there"
                release.now.set()
                assert old.wait(20) == 0
                load.pools_of(20)

        for stream in long:
            stream.join(20)
        assert [whole_text(stream.content.decode()) for stream in long] == ["Red end"] * 4
        assert {answer.text for answer in load.answers} == {"Red and blue"}
        rids = [request["rid"] for request in upstream.generated]
        assert len(set(rids)) == len(rids) == len(load.answers) + len(long)
        assert upstream.aborted == []


def listens(client: httpx.Client) -> bool:
    try:
        return httpx.get(f"{client.base_url}/healthz", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def old_runtime() -> Iterator[Server]:
    with aerie("runtime") as started:
        yield started


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def install(config: Path, *pools: dict[str, Any]) -> None:
    """As a ConfigMap's volume changes: at no time is there half a file."""
    fresh = config.with_suffix(".new")
    fresh.write_text(yaml.safe_dump({"pools": list(pools)}))
    fresh.replace(config)


def pool(name: str, runtime: Server, **fields: object) -> dict[str, Any]:
    return {"name": name, "replicas": [runtime.runtime_url], **fields}


def changed(url: str, config: Path, *pools: dict[str, Any]) -> None:
    """Install it, and wait until the gateway has taken it over and knows its replicas."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        generation = summed(samples(client), "aerie_config_generation", {})
        install(config, *pools)
        until(lambda: summed(samples(client), "aerie_config_generation", {}) > generation, "the new configuration")
        for one in pools:
            until(lambda: summed(samples(client), "aerie_upstream_up", {"pool": one["name"]}), one["name"])  # noqa: B023


def check_counts(url: str, load: Load) -> None:
    """The gateway has served exactly what was asked, each once and well."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        found = samples(client)
    assert summed(found, "aerie_pool_requests_total", {"outcome": "ok"}) == len(load.answers)
    assert summed(found, "aerie_pool_requests_total", {}) == len(load.answers)
    assert summed(found, "aerie_upstream_aborts_total", {}) == 0
    assert all(answer.text for answer in load.answers)


def test_a_draft_is_rolled_out_by_weight_and_no_request_is_lost(
    server: Server, old_runtime: Server, config: Path
) -> None:
    eagle, canary = pool("eagle", old_runtime, version="v1"), pool("next", server, version="v2")
    install(config, eagle, canary | {"weight": 0})
    with gateway(server, "--config", str(config), AERIE_LOG_LEVEL="error") as url:
        load = Load(url, CLIENTS, question)
        with load.running():
            assert load.pools_of(4) == {"eagle"}
            changed(url, config, eagle, canary)
            until(lambda: load.pools_of(4) == {"eagle", "next"}, "both drafts' share")
            changed(url, config, eagle | {"weight": 0}, canary)
            assert load.pools_of(4) == {"next"}
            changed(url, config, canary)
            assert load.pools_of(4) == {"next"}
        check_counts(url, load)


def test_a_runtime_is_replaced_behind_a_gateway_and_no_request_is_lost(
    server: Server, old_runtime: Server, config: Path
) -> None:
    install(config, pool("eagle", old_runtime))
    with gateway(server, "--config", str(config), AERIE_LOG_LEVEL="error") as url:
        load = Load(url, CLIENTS, question)
        with load.running():
            load.pools_of(4)
            both = pool("eagle", old_runtime) | {"replicas": [old_runtime.runtime_url, server.runtime_url]}
            changed(url, config, both)
            load.pools_of(4)
            changed(url, config, pool("eagle", server))
            old_runtime.process.send_signal(signal.SIGTERM)  # requests are still there
            load.pools_of(8)
            assert old_runtime.process.wait(60) == 0
            load.pools_of(4)
        check_counts(url, load)
