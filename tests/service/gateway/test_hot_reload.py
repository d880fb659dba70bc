"""The file of pools and policy changes while the gateway runs: all of it or nothing, and nobody is disturbed."""

import asyncio
import signal
from contextlib import contextmanager

import pytest

from service.gateway import config as config_module
from service.gateway import fleet as fleet_module
from service.gateway.config import GatewayConfig, PoolConfig
from service.gateway.discovery import Discovery
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import counter, gateway_with, key, samples, until
from tests.service.gateway.scripted_upstream import Cut, Hold, Release, Script
from tests.service.gateway.test_drain import Streaming, process
from tests.service.gateway.test_fleet import (
    CHAT,
    asking,
    beside,  # noqa: F401 - a fixture
    conversations,
    eagle,
    occupied,
    plain,
    refusal,
    replaced,
    served_by,
    total,
    written,
)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(config_module, "INTERVAL_S", 0.02)
    monkeypatch.setattr(fleet_module, "TICK_S", 0.05)


@pytest.fixture
def start(tmp_path):
    """`with start(*pools, **sections) as client`: before a file that `client.change` rewrites and waits for."""

    @contextmanager
    def one(*pools, settings=None, **sections):
        path = written(tmp_path, *pools, **sections)
        with gateway_with(config=path, **(settings or {})) as client:
            client.file = path
            client.change = lambda *pools, **sections: change(client, *pools, **sections)
            until(lambda: up(client) == replicas(pools))
            yield client

    return one


def replicas(pools):
    return {(pool["name"], url.removeprefix("http://")) for pool in pools for url in pool["replicas"]}


def change(client, *pools, ready=True, **sections):
    """Rewrite the file; return when it has been taken over and, unless told otherwise, every replica is ready."""
    generation = samples(client)[key("aerie_config_generation", {})]
    written(client.file.parent, *pools, **sections)
    until(lambda: samples(client)[key("aerie_config_generation", {})] == generation + 1, "the new file")
    until(lambda: not ready or replicas(pools) <= up(client), "every replica's readiness")


def up(client):
    """Replicas that are ready, with their pools."""
    found = [(dict(labels), value) for (name, labels), value in samples(client).items() if name == "aerie_upstream_up"]
    return {(labels["pool"], labels["replica"]) for labels, value in found if value}


def pools_of(client):
    return {pool for pool, _ in up(client)}


def test_policy_changes_in_place(start, runtimes, chat):
    pools = eagle(runtimes[0]), plain(runtimes[1])
    with start(*pools, policy={"baseline_share": 0}) as client:
        assert served_by(client, chat) == "eagle; reason=default"
        client.change(*pools, policy={"baseline_share": 1})
        assert served_by(client, chat) == "plain; reason=share"


def test_a_pool_that_comes_serves_and_one_that_goes_does_not(start, runtimes, chat):
    with start(eagle(runtimes[0])) as client:
        client.change(eagle(runtimes[0]), plain(runtimes[1]))
        assert served_by(client, chat, mode="off") == "plain; reason=asked_off"
        client.change(plain(runtimes[1]))
        assert served_by(client, chat) == "plain; reason=only_pool"
        until(lambda: pools_of(client) == {"plain"}, "the end of the retired pool")
        assert key("aerie_queue_waiting_requests", {"pool": "eagle"}) not in samples(client)


def test_a_newcomer_is_probed_before_it_is_trusted(start, runtimes, chat):
    runtimes[1].ready_status = 503
    with start(eagle(runtimes[0])) as client:
        client.change(eagle(runtimes[0], runtimes[1]), ready=False)
        for body in conversations(chat):
            assert client.post(CHAT, json=body).is_success
        assert runtimes[1].generated == []
        runtimes[1].ready_status = 200
        until(lambda: client.post(CHAT, json=asking(chat, str(len(runtimes[0].generated)))) and runtimes[1].generated)


def of(runtime):
    return {"pool": "eagle", "replica": runtime.url.removeprefix("http://")}


def test_a_replica_that_stays_keeps_its_requests(start, runtimes, chat):
    with start(eagle(runtimes[0])) as client, occupied(client, runtimes[0], chat):
        client.change(eagle(runtimes[0], runtimes[1], max_in_flight=3))
        assert samples(client)[key("aerie_upstream_requests_in_flight", of(runtimes[0]))] == 1
    assert runtimes[0].aborted == []


def test_a_replica_that_stays_keeps_its_breaker(start, runtimes, chat):
    closed = key("aerie_upstream_breaker_closed", of(runtimes[0]))
    runtimes[0].script = Script(before_head=Cut())
    with start(eagle(runtimes[0])) as client:
        until(lambda: client.post(CHAT, json=chat) and samples(client)[closed] == 0, "the open breaker")
        client.change(eagle(runtimes[0], runtimes[1]))
        assert samples(client)[closed] == 0


def test_a_replica_that_leaves_finishes_its_request(start, runtimes, chat):
    with start(eagle(runtimes[0])) as client, occupied(client, runtimes[0], chat):
        client.change(eagle(runtimes[1]))
        assert client.post(CHAT, json=chat).is_success
        assert len(runtimes[1].generated) == 1
    assert runtimes[0].aborted == []


def test_a_pool_that_goes_serves_those_that_wait_for_it(start, runtimes, chat, beside):  # noqa: F811
    with start(eagle(runtimes[0], max_in_flight=1)) as client:
        with occupied(client, runtimes[0], chat):
            waiting = beside(client.post, CHAT, json=chat)
            until(lambda: total(client, "aerie_queue_waiting_requests") == 1)
            client.change(plain(runtimes[1]))
            assert client.post(CHAT, json=chat).is_success
            assert total(client, "aerie_queue_waiting_requests") == 1
        assert waiting.result(20).headers["x-aerie-pool"] == "eagle; reason=only_pool"
        until(lambda: pools_of(client) == {"plain"}, "the end of the retired pool")


def test_a_pool_that_comes_back_while_it_ends_goes_on(start, runtimes, chat):
    with start(eagle(runtimes[0])) as client, occupied(client, runtimes[0], chat):
        client.change(plain(runtimes[1]))
        client.change(eagle(runtimes[0]))
        assert served_by(client, chat) == "eagle; reason=only_pool"
        assert total(client, "aerie_upstream_requests_in_flight") == 1


def test_a_request_that_moves_to_a_pool_that_is_gone_is_a_503(start, runtimes, chat, beside):  # noqa: F811
    release = Release()
    with start(eagle(runtimes[0]), plain(runtimes[1])) as client:
        runtimes[0].script = Script(status=503, body=b'{"message": "loading"}', before_head=release)
        waiting = beside(client.post, CHAT, json=chat)
        until(lambda: runtimes[0].generated)
        client.change(eagle(runtimes[0]))
        until(lambda: pools_of(client) == {"eagle"}, "the end of the retired pool")
        release.now.set()
        assert refusal(waiting.result(20)) == (503, "upstream_unavailable")


def test_a_pool_keeps_its_kind(start, runtimes, chat, caplog):
    with start(eagle(runtimes[0])) as client:
        other = eagle(runtimes[0]) | {"kind": "baseline"}
        written(client.file.parent, other)
        until(lambda: samples(client)[key("aerie_config_stale", {})] == 1)
        assert served_by(client, chat) == "eagle; reason=only_pool"
        client.change(other | {"name": "plain"})
        assert served_by(client, chat) == "plain; reason=only_pool"
        assert samples(client)[key("aerie_config_stale", {})] == 0
    (told,) = {record.fields["reason"] for record in caplog.records if "reload failed" in record.message}
    assert told.endswith(
        "pools: eagle is speculative and cannot become baseline while the gateway runs; give that one another name"
    )


def test_the_queues_limit_changes_in_place(start, runtimes, chat, beside):  # noqa: F811
    full = eagle(runtimes[0], max_in_flight=1)
    with start(full, queue={"limit": 0}) as client, occupied(client, runtimes[0], chat):
        assert refusal(client.post(CHAT, json=chat)) == (429, "queue_full")
        client.change(full, queue={"limit": 1})
        waiting = beside(client.post, CHAT, json=chat)
        until(lambda: total(client, "aerie_queue_waiting_requests") == 1)
        client.change(eagle(runtimes[0], max_in_flight=2))
        assert waiting.result(20).is_success


BROKEN = {
    "no YAML": "pools: [",
    "half a file": "policy: {baseline_share: 1}",
    "one bad number": "pools: [{name: new, replicas: ['http://127.0.0.1:1']}]\nqueue: {limit: -1}",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_changes_nothing_and_is_told(start, runtimes, chat, text):
    with start(eagle(runtimes[0])) as client:
        replaced(client.file, text)
        until(lambda: samples(client)[key("aerie_config_stale", {})] == 1)
        assert served_by(client, chat) == "eagle; reason=only_pool"
        assert pools_of(client) == {"eagle"}
        client.change(eagle(runtimes[0]), plain(runtimes[1]))
        assert samples(client)[key("aerie_config_stale", {})] == 0


def test_hangup_reads_the_file_at_once_and_streams_go_on(tmp_path, runtimes, chat):
    release = Release()
    path = written(tmp_path, eagle(runtimes[0]))
    with process(config=path) as (running, client):
        runtimes[0].script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
        stream = Streaming(client.base_url, chat)
        assert stream.began.wait(20)
        grew = counter(client)
        written(tmp_path, plain(runtimes[1]))
        running.send_signal(signal.SIGHUP)
        until(lambda: path.touch() or grew("aerie_config_generation") == 1)  # a file that moves is not polled
        until(lambda: client.get("/readyz").is_success)
        assert served_by(client, chat) == "plain; reason=only_pool"
        release.now.set()
        stream.join(20)
        assert stream.content.endswith(wire.DONE)


def test_leaving_with_retired_pools_leaves_nothing_open(start, runtimes, chat):
    runtimes[0].script = Script(before_head=Hold())
    with start(eagle(runtimes[0])) as client:
        client.change(plain(runtimes[1]), eagle(runtimes[2]))
        client.change(plain(runtimes[3]))


def test_a_name_that_stays_keeps_its_addresses_while_nobody_can_resolve_it():
    answers = {"runtime": ["10.0.0.1"]}

    async def resolver(name, port):
        if name not in answers:
            raise OSError("no answer")
        return answers[name]

    async def run():
        discovery = Discovery(["dns+http://runtime:1", "dns+http://gone:1"], resolver=resolver)
        await discovery.urls()
        answers.clear()
        await discovery.urls()
        assert len(discovery.problems) == 2
        discovery.retarget(["dns+http://runtime:1", "http://10.0.0.9:1"])
        return await discovery.urls(), len(discovery.problems)

    assert asyncio.run(run()) == ({"http://10.0.0.1:1", "http://10.0.0.9:1"}, 1)


def test_a_workers_share_adds_up_to_no_less_than_the_whole():
    pool = PoolConfig(name="a", replicas=("http://h:1",), max_in_flight=5)
    config = GatewayConfig.model_validate({"pools": [pool], "queue": {"limit": 0, "limit_per_key": 7}})
    assert config.share(1) == config
    share = config.share(2)
    assert share.pools[0].max_in_flight == 3
    assert (share.queue.limit, share.queue.limit_per_key, share.queue.wait_s) == (0, 4, 30)
    assert config.share(100).pools[0].max_in_flight == 1
