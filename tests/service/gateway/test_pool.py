"""Several scripted runtimes behind one name: who is chosen, who is passed over and why, who comes and goes."""

import asyncio
import json
import random
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from service.gateway import pool as pool_module
from service.gateway.breaker import BreakerPolicy
from service.gateway.errors import (
    ClientGone,
    InvalidRequest,
    Overloaded,
    ShuttingDown,
    UpstreamFailed,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
    unavailable,
)
from service.gateway.metrics import Metrics
from service.gateway.policy import PoolLoad
from service.gateway.pool import Pool
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeLoad, SGLang
from tests.service.gateway.conftest import DEADLINE_S
from tests.service.gateway.scripted_upstream import LOAD, MODEL

pytestmark = pytest.mark.anyio

FRAGILE = BreakerPolicy(failures=1, window=1, backoff_s=10, backoff_limit_s=10)


class Places:
    """Discovery as a test says."""

    def __init__(self, urls):
        self.found = set(urls)
        self.problems = ()

    async def urls(self):
        return frozenset(self.found)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def runtimes(runtimes):
    return runtimes[:3]


@asynccontextmanager
async def pool_of(runtimes, **options):
    """A pool whose runtimes have all been found ready."""
    places = Places(runtime.url for runtime in runtimes)
    settings = Settings(probe_interval_s=0.02)
    options = {"max_in_flight": 4, "rng": random.Random(0), "metrics": Metrics()} | options
    async with Pool("main", places, settings, **options) as pool:
        pool.places = places
        await until(lambda: pool.load.replicas == len(runtimes))
        yield pool


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - it becomes true in another thread
            await asyncio.sleep(0.01)


def chosen(pool, key=None, times=50):
    return Counter(pool.choose(key).url for _ in range(times))


def series(metrics, name):
    return {
        sample.labels["replica"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


async def test_a_pool_is_ready_when_a_replica_is_and_its_capacity_counts_those_that_are(runtimes):
    runtimes[0].ready_status = runtimes[1].ready_status = 503
    async with pool_of(runtimes[2:], max_in_flight=4) as pool:
        assert (pool.ready, pool.reason, pool.capacity, pool.info().models) == (True, None, 4, (MODEL,))
        pool.places.found |= {runtime.url for runtime in runtimes}
        await pool.refresh()
        runtimes[0].ready_status = 200
        await until(lambda: pool.capacity == 8)
        assert set(chosen(pool)) == {runtimes[0].url, runtimes[2].url}
        for runtime in runtimes:
            runtime.ready_status = 503
        await until(lambda: not pool.ready)
        assert (pool.capacity, pool.load) == (0, PoolLoad(replicas=0, running=0))


async def test_nobody_ready_is_a_503_that_says_why_to_clients_without_addresses(runtimes):
    async with pool_of(runtimes) as pool:
        runtimes[0].ready_status = 503
        runtimes[1].ready_status = 500
        await until(lambda: len(pool.reasons) == 2)
        last = pool.choose(None)
        with pytest.raises(UpstreamUnavailable) as refusal:
            pool.choose(None, exclude=[last])
        message = refusal.value.message
        for why in ("None of 3 replicas", "answers 503", "answers 500", "failed on this request"):
            assert why in message
        assert "127.0.0.1" not in message
        assert refusal.value.retry_after_s
        assert set(pool.reasons) == {runtime.url.removeprefix("http://") for runtime in runtimes[:2]}
        runtimes[2].ready_status = 503
        await until(lambda: not pool.ready)
        for refused in (pool.info, lambda: pool.choose(b"key")):
            with pytest.raises(UpstreamUnavailable, match="None of 3 replicas"):
                refused()


async def test_one_replica_or_one_reason_is_told_without_counting(runtimes):
    async with pool_of(runtimes) as pool:
        for runtime in runtimes:
            runtime.ready_status = 503
        await until(lambda: not pool.ready)
        assert pool.reason == "The runtime is not ready: /ready answers 503."


async def test_a_pool_without_replicas_says_so_and_operators_learn_why():
    async with pool_of([]) as pool:
        pool.places.problems = ("runtime cannot be resolved: Name or service not known",)
        with pytest.raises(UpstreamUnavailable, match="No replica is known"):
            pool.choose(None)
        assert pool.reasons == {"main": "runtime cannot be resolved: Name or service not known"}


async def test_a_conversation_has_one_replica_in_every_gateway_and_a_next_while_that_is_down(runtimes):
    async with pool_of(runtimes) as pool, pool_of(runtimes) as other:
        keys = [number.to_bytes(4) for number in range(30)]
        homes = {key: pool.choose(key) for key in keys}
        assert len(set(homes.values())) == 3
        assert {key: other.choose(key).url for key in keys} == {key: home.url for key, home in homes.items()}
        down = runtimes[0]
        down.ready_status = 503
        await until(lambda: pool.load.replicas == 2)
        for key, home in homes.items():
            now = pool.choose(key)
            assert now.url != down.url
            assert now is home or home.url == down.url
            assert pool.choose(key, exclude=[now]) not in (now, home if home.url == down.url else None)
        down.ready_status = 200
        await until(lambda: pool.load.replicas == 3)
        assert {key: pool.choose(key) for key in keys} == homes


async def test_a_lease_counts_a_request_however_it_ends(runtimes):
    async with pool_of(runtimes[:1]) as pool:
        member = pool.choose(None)
        with pool.lease(member), pool.lease(member):
            assert pool.load.running == 2
        for error in (ClientGone("left"), unavailable("gone"), ValueError(), asyncio.CancelledError()):
            with pytest.raises(type(error)), pool.lease(member):
                raise error
        assert pool.load.running == 0


async def test_requests_without_a_key_go_to_the_less_busy(runtimes):
    async with pool_of(runtimes[:2]) as pool:
        busy = pool.choose(None)
        with pool.lease(busy):
            assert busy.url not in chosen(pool)


async def test_a_member_that_is_full_is_passed_over_until_all_are(runtimes):
    async with pool_of(runtimes[:2], max_in_flight=1) as pool:
        home = pool.choose(b"key")
        with pool.lease(home):
            other = pool.choose(b"key")
            assert other is not home
            with pool.lease(other):
                assert pool.choose(b"key") in (home, other)


async def test_what_others_run_at_a_replica_counts_and_what_we_run_counts_once(runtimes):
    async with pool_of(runtimes[:2]) as pool:
        home = pool.choose(b"key")
        with pool.lease(home), pool.lease(home):
            runtime = next(runtime for runtime in runtimes if runtime.url == home.url)
            runtime.load_is(2, 1, num_waiting_reqs=1)
            await until(lambda: home.load.others)
            assert pool.load.running == 5
            assert home.url not in chosen(pool) + chosen(pool, b"key")
        assert pool.load.running == 3
        runtime.loads = 404, b""
        await until(lambda: pool.load.running == 0)


LOADS = {
    "two ranks": ((200, {"loads": [LOAD | {"num_running_reqs": 3}, LOAD | {"num_waiting_reqs": 2}]}), (3, 2, 16)),
    "no rank has published yet": ((200, {"loads": []}), None),
    "another shape": ((200, {"loads": [{"num_running_reqs": 3}]}), None),
    "another type": ((200, {"loads": [LOAD | {"num_running_reqs": None}]}), None),
    "an array": ((200, [LOAD]), None),
    "no such route": ((404, {"detail": "Not Found"}), None),
    "an error": ((500, {}), None),
}


@pytest.mark.parametrize(("answer", "expected"), LOADS.values(), ids=LOADS)
async def test_a_runtime_that_does_not_say_how_busy_it_is_serves_all_the_same(runtimes, answer, expected):
    status, document = answer
    runtimes[0].loads = status, json.dumps(document).encode()
    async with pool_of(runtimes[:1]) as pool:
        client = SGLang(runtimes[0].url, Settings())
        assert await client.loads() == (None if expected is None else RuntimeLoad(*expected))
        client.close()
        assert pool.ready


FAULTS = (unavailable("x"), UpstreamProtocolError("x"), UpstreamTimeout("x"))
NO_FAULTS = (InvalidRequest("x"), Overloaded("x"), UpstreamFailed("x"), ClientGone("x"), ShuttingDown("x"))


@pytest.mark.parametrize("error", [*FAULTS, *NO_FAULTS], ids=lambda error: type(error).__name__)
async def test_only_what_is_the_replicas_fault_and_comes_before_its_answer_opens_the_breaker(runtimes, error):
    async with pool_of(runtimes[:1], breaker=FRAGILE) as pool:
        with pool.lease(pool.choose(None)) as lease:
            lease.answered()
            lease.failed(error)
        with pytest.raises(type(error)), pool.lease(pool.choose(None)):
            raise error
        assert (pool.capacity == 0) == (error in FAULTS)
        assert pool.ready


async def test_a_broken_member_is_passed_over_until_a_trial_is_answered(runtimes):
    now_s = [100.0]
    async with pool_of(runtimes[:2], breaker=FRAGILE, clock=lambda: now_s[0]) as pool:
        broken = pool.choose(b"key")
        with pool.lease(broken) as lease:
            lease.failed(unavailable("gone"))
        assert broken.url not in chosen(pool, b"key")
        with pytest.raises(UpstreamUnavailable, match="Too many"), pool.lease(broken):
            pass
        now_s[0] += FRAGILE.backoff_limit_s
        assert pool.choose(b"key") is broken
        with pool.lease(broken):  # its client leaves: nothing learnt
            assert pool.choose(b"key") is not broken
        with pool.lease(broken) as trial:
            trial.answered()
            assert pool.load == PoolLoad(replicas=2, running=1)


async def test_a_removed_replica_takes_no_new_request_and_is_closed_after_its_last(runtimes):
    metrics = Metrics()
    async with pool_of(runtimes[:2], metrics=metrics) as pool:
        leaving = pool.choose(b"key")
        label = leaving.url.removeprefix("http://")
        with pool.lease(leaving):
            pool.places.found.remove(leaving.url)
            await pool.refresh()
            assert leaving.url not in chosen(pool, b"key")
            assert pool.reasons == {label: "The replica is leaving."}
            with pytest.raises(UpstreamUnavailable, match="leaving"), pool.lease(leaving):
                pass
            await leaving.replica.client.ready()
            assert series(metrics, "aerie_upstream_requests_in_flight")[label] == 1
        await pool.refresh()
        assert pool.reasons == {}
        for name in ("up", "info", "requests_in_flight", "other_requests", "breaker_closed"):
            assert set(series(metrics, f"aerie_upstream_{name}")) == {pool.choose(None).url.removeprefix("http://")}
        with pytest.raises(UpstreamUnavailable):
            await leaving.replica.client.ready()


async def test_a_closed_pool_has_nobody(runtimes):
    async with pool_of(runtimes[:2]) as pool:
        member = pool.choose(None)
    assert pool.capacity == 0
    for choice in (lambda: pool.choose(None), lambda: pool.lease(member).__enter__()):
        with pytest.raises(UpstreamUnavailable, match="leaving"):
            choice()


async def test_a_replica_is_kept_while_a_question_is_there(runtimes):
    async with pool_of(runtimes[:1]) as pool:
        member = pool.choose(None)
        with pool.lease(member, question=True):
            assert (pool.idle, pool.load.running, member.load.questions) == (False, 0, 1)
            pool.places.found = set()
            await pool.refresh()
            await member.replica.client.ready()
        assert pool.idle


async def test_a_replica_that_comes_back_before_its_last_request_ends_goes_on(runtimes):
    async with pool_of(runtimes[:1]) as pool:
        member = pool.choose(None)
        with pool.lease(member):
            for found in (set(), {member.url}):
                pool.places.found = found
                await pool.refresh()
            assert pool.choose(None) is member


async def test_discovery_goes_on_after_an_unexpected_error(runtimes, monkeypatch, caplog):
    monkeypatch.setattr(pool_module, "DISCOVERY_INTERVAL_S", 0.01)
    async with pool_of(runtimes[:1]) as pool:
        found, pool.places.found = pool.places.found, None
        await until(lambda: "unexpected error in discovery" in caplog.text)
        pool.places.found = found | {runtimes[1].url}
        await until(lambda: pool.load.replicas == 2)


async def test_leaving_the_context_ends_everything_even_while_discovery_waits(runtimes, monkeypatch):
    monkeypatch.setattr(pool_module, "DISCOVERY_INTERVAL_S", 0.01)
    before = asyncio.all_tasks()
    asked = asyncio.Event()

    async def never():
        asked.set()
        await asyncio.Event().wait()

    async with pool_of(runtimes) as pool:
        assert len(asyncio.all_tasks() - before) == 4
        monkeypatch.setattr(pool.places, "urls", never)
        await asked.wait()
    assert asyncio.all_tasks() == before
