"""The canary before two scripted runtimes on real ports: what it asks and leaves alone, what it counts and tells."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.gateway import losslessness, strict_yaml
from service.gateway.compare import Result
from service.gateway.config import GatewayConfig, LosslessnessConfig, PoolConfig
from service.gateway.fleet import Fleet
from service.gateway.losslessness import Canary
from service.gateway.metrics import Metrics
from service.gateway.policy import Kind, Mode, RequestFacts
from service.gateway.record import RequestRecord, Usage
from service.gateway.settings import Settings
from service.gateway.watchers import Watchers
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import DEADLINE_S
from tests.service.gateway.exchanges import exchange_of
from tests.service.gateway.scripted_upstream import MODEL, Hold, Script, ScriptedUpstream, respond, served

pytestmark = pytest.mark.anyio

FACTS_OFF = RequestFacts(draw=1.0, asked=Mode.OFF)
CHAT = "/v1/chat/completions"
END = 65
"""A token that the scripted detokenizer writes as `A`."""
SPOKEN = [("Red", [("Green", 0.05), ("Mauve", 4.0)]), (" and", [(" or", 0.05), ("A", 0.02)]), (" blue", []), ("A", [])]


@dataclass
class Baseline(ScriptedUpstream):
    """A runtime that answers every generation with `said`."""

    said: bytes = b""
    status: int = 200

    async def generate(self, request, receive, send):
        if self.script.before_head is not None:
            await super().generate(request, receive, send)
        else:
            await respond(send, self.status, self.said)


def said(*tokens, matched=END):
    """An answer of these tokens, each with its alternatives, as SGLang tells it; the last one ends it."""
    content = [spoken(text, -0.1, [spoken(other, -0.1 - gap, []) for other, gap in others]) for text, others in tokens]
    text = "".join(text for text, _ in tokens[:-1])
    return answered(text, matched=matched, logprobs={"content": content})


def spoken(text, logprob, others):
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob, "top_logprobs": others}


def answered(text, matched=END, **fields):
    document = json.loads(wire.whole("r"))
    document["choices"][0] |= {"message": {"role": "assistant", "content": text}, "matched_stop": matched} | fields
    return json.dumps(document).encode()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def two_runtimes():
    speculative, baseline = ScriptedUpstream(), Baseline()
    with served(speculative) as speculative.url, served(baseline) as baseline.url:
        yield speculative, baseline


@pytest.fixture
def runtimes(two_runtimes):
    for runtime in two_runtimes:
        runtime.reset()
    two_runtimes[1].said, two_runtimes[1].status = said(*SPOKEN), 200
    two_runtimes[1].server_info["speculative_algorithm"] = None
    return two_runtimes


def config(runtimes, **canary):
    eagle = PoolConfig(name="eagle", replicas=(runtimes[0].url,))
    plain = PoolConfig(name="plain", kind=Kind.BASELINE, replicas=(runtimes[1].url,))
    return GatewayConfig(pools=(eagle, plain), losslessness=LosslessnessConfig(**{"share": 1.0} | canary))


@asynccontextmanager
async def fleet_of(conf):
    metrics = Metrics()
    async with asyncio.timeout(DEADLINE_S), Fleet(conf, Settings(probe_interval_s=0.05), metrics) as fleet:
        await until(lambda: all(station.pool.ready for station in fleet.stations))
        yield fleet, metrics


@asynccontextmanager
async def canary_of(runtimes, **canary):
    async with fleet_of(config(runtimes, **canary)) as (fleet, metrics):
        yield Canary(fleet, metrics), fleet, metrics


async def until(condition):
    while not condition():  # noqa: ASYNC110 - `fleet_of` bounds it
        await asyncio.sleep(0.01)


def asked(fleet, **fields):
    """A request as it went to the speculative pool."""
    return exchange_of(fleet, CHAT, messages=[{"role": "user", "content": "Name a colour."}], **fields)


def recorded(pool="eagle", model=MODEL, tokens=4):
    return RequestRecord("req-1", "POST", CHAT, status=200, pool=pool, model=model, usage=Usage(9, tokens), route=CHAT)


def counted(metrics):
    found = {result: metrics.losslessness_checks.labels("eagle", result)._value.get() for result in Result}
    return {result: int(times) for result, times in found.items() if times}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("Red and blue", Result.SAME),
        ("Green and gold", Result.WITHIN_EPSILON),
        ("Red or white", Result.WITHIN_EPSILON),
        ("Red", Result.WITHIN_EPSILON),
        ("Mauve", Result.MISMATCH),
        ("Red and black", Result.MISMATCH),
        ("Red and blue and", Result.MISMATCH),
    ],
)
async def test_an_answer_is_judged_by_what_the_baseline_says_to_the_same_question(runtimes, text, result):
    async with canary_of(runtimes) as (canary, fleet, metrics):
        assert await canary.check(asked(fleet), recorded(), answered(text)) is result
        assert counted(metrics) == {result: 1}


async def test_the_baseline_is_asked_the_same_with_logprobs_under_an_id_of_its_own(runtimes):
    async with canary_of(runtimes) as (canary, fleet, _):
        exchange = asked(fleet, stream=True, max_tokens=50)
        assert await canary.check(exchange, recorded(), streamed("Red and", " blue")) is Result.SAME
    [replayed] = runtimes[1].generated
    assert replayed["messages"] == [{"role": "user", "content": "Name a colour."}]
    assert (replayed["logprobs"], replayed["top_logprobs"], replayed["max_tokens"]) == (True, 5, 12)
    assert replayed["rid"].startswith("canary-")
    assert not {"stream", "stream_options", "return_spec_tokens_details"} & replayed.keys()
    assert runtimes[0].generated == []


def streamed(*texts):
    last = json.loads(wire.chunk("r", None, finish_reason="stop").removeprefix(b"data: "))
    last["choices"][0]["matched_stop"] = END
    chunks = [wire.chunk("r", text) for text in texts]
    return b"".join([*chunks, wire.event(last), wire.summary("r", usage=wire.USAGE), wire.DONE])


async def test_what_ended_an_answer_is_looked_up_only_where_answers_differ(runtimes):
    async with canary_of(runtimes) as (canary, fleet, _):
        await canary.check(asked(fleet), recorded(), answered("Red and blue"))
        assert runtimes[1].asked == []
        await canary.check(asked(fleet), recorded(), answered("Red"))
    [(path, question)] = runtimes[1].asked
    assert (path, question["tokens"], question["skip_special_tokens"]) == ("/v1/detokenize", [END], False)


async def test_a_mismatch_is_told_without_any_text(runtimes, caplog):
    async with canary_of(runtimes) as (canary, fleet, _):
        exchange = asked(fleet)
        await canary.check(exchange, recorded(), answered("Mauve"))
    [line] = [line for line in caplog.records if line.name == "aerie.losslessness"]
    assert (line.levelname, line.message) == ("WARNING", "speculation changed an answer")
    assert line.fields == {
        "request_id": "req-1",
        "rid": exchange.rid,
        "pool": "eagle",
        "baseline": "plain",
        "position": 0,
        "logprob_difference": pytest.approx(4.0),
        "at_least": False,
    }


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, json.dumps(wire.error("out of memory", 500)).encode()),
        (400, json.dumps(wire.error("no logprobs here", 400)).encode()),
        (200, b"{}"),
        (200, b"not JSON"),
        (200, wire.whole("r")),
    ],
)
async def test_a_baseline_that_cannot_say_is_a_failure_and_no_mismatch(runtimes, status, body):
    runtimes[1].status, runtimes[1].said = status, body
    async with canary_of(runtimes) as (canary, fleet, metrics):
        assert await canary.check(asked(fleet), recorded(), answered("Red and blue")) is Result.FAILED
        assert counted(metrics) == {Result.FAILED: 1}


async def test_a_replay_that_does_not_end_is_stopped_at_the_runtime_too(runtimes, monkeypatch):
    monkeypatch.setattr(losslessness, "TIMEOUT_S", 0.2)
    runtimes[1].script = Script(before_head=Hold())
    async with canary_of(runtimes) as (canary, fleet, _):
        assert await canary.check(asked(fleet), recorded(), answered("Red and blue")) is Result.FAILED
        assert runtimes[1].aborted == [runtimes[1].generated[0]["rid"]]
        assert fleet.stations[1].pool.idle


@pytest.mark.parametrize(
    "record",
    [recorded(pool="plain"), recorded(pool="gone"), recorded(pool=None), recorded(model="another")],
    ids=["of the baseline", "of a pool that left", "of none", "of a model the baseline lacks"],
)
async def test_what_the_baseline_cannot_judge_is_left_alone(runtimes, record):
    async with canary_of(runtimes) as (canary, fleet, metrics):
        assert await canary.check(asked(fleet), record, answered("Red and blue")) is None
        assert counted(metrics) == {}
    assert runtimes[1].generated == []


async def test_a_request_that_is_not_plainly_greedy_is_left_alone(runtimes):
    async with canary_of(runtimes) as (canary, fleet, _):
        assert await canary.check(asked(fleet, temperature=0.5), recorded(), answered("Red and blue")) is None
        assert await canary.check(asked(fleet, regex="Red"), recorded(), answered("Red and blue")) is None
    assert runtimes[1].generated == []


@pytest.mark.parametrize(("running", "asks"), [(0, True), (1, True), (2, False)])
async def test_a_baseline_with_work_of_its_own_is_left_alone(runtimes, running, asks):
    """It can run eight at a time (scripted_upstream.LOAD)."""
    runtimes[1].load_is(running)
    async with canary_of(runtimes) as (canary, fleet, _):
        result = await canary.check(asked(fleet), recorded(), answered("Red and blue"))
    assert (result is not None) == asks == bool(runtimes[1].generated)


async def test_a_baseline_that_is_down_is_left_alone(runtimes):
    async with canary_of(runtimes) as (canary, fleet, metrics):
        exchange = asked(fleet)
        runtimes[1].ready_status = 503
        await until(lambda: not fleet.stations[1].pool.ready)
        assert await canary.check(exchange, recorded(), answered("Red and blue")) is None
        assert counted(metrics) == {}


async def test_a_pool_that_serves_nobody_can_be_named_as_the_baseline(runtimes):
    conf = config(runtimes)
    spare = PoolConfig(name="spare", kind=Kind.BASELINE, replicas=(runtimes[1].url,), weight=0.0)
    busy = PoolConfig(name="plain", kind=Kind.BASELINE, replicas=(runtimes[0].url,))
    named = conf.losslessness.model_copy(update={"baseline_pool": "spare"})
    conf = GatewayConfig(pools=(conf.pools[0], busy, spare), losslessness=named)
    async with fleet_of(conf) as (fleet, metrics):
        assert await Canary(fleet, metrics).check(asked(fleet), recorded(), answered("Red and blue")) is Result.SAME
    assert len(runtimes[1].generated) == 1


async def test_a_replay_is_at_the_replica_as_one_of_our_requests(runtimes):
    release = wire.Release()
    runtimes[1].script = Script(before_head=release, body=said(*SPOKEN))
    async with canary_of(runtimes) as (canary, fleet, _):
        pool = fleet.stations[1].pool
        check = asyncio.create_task(canary.check(asked(fleet), recorded(), answered("Red and blue")))
        await until(lambda: runtimes[1].generated)
        assert (pool.load.running, pool.idle, fleet.stations[1].admission.running) == (1, False, 0)
        release.now.set()
        assert await check is Result.SAME
        assert (pool.load.running, pool.idle) == (0, True)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


async def test_checks_are_one_at_a_time_and_no_more_than_so_many_a_minute(runtimes):
    clock = Clock()
    async with fleet_of(config(runtimes, per_minute=6.0)) as (fleet, metrics):
        canary = Canary(fleet, metrics, clock)
        work = asyncio.create_task(canary.run())
        for _ in range(3):  # two too many
            canary.offer(asked(fleet), recorded(), answered("Red and blue"))
        assert not canary.wants(asked(fleet))
        await until(lambda: counted(metrics) == {Result.SAME: 1})
        clock.now += 9.9
        assert not canary.wants(asked(fleet))
        canary.offer(asked(fleet), recorded(), answered("Red and blue"))
        clock.now += 0.2
        assert canary.wants(asked(fleet))
        canary.offer(asked(fleet), recorded(), answered("Mauve"))
        await until(lambda: counted(metrics) == {Result.SAME: 1, Result.MISMATCH: 1})
        work.cancel()
    assert len(runtimes[1].generated) == 2


async def test_an_answer_that_breaks_the_checker_is_a_failure_and_the_next_one_is_checked(runtimes, monkeypatch):
    async with fleet_of(config(runtimes, per_minute=1e9)) as (fleet, metrics):
        canary = Canary(fleet, metrics)
        work = asyncio.create_task(canary.run())
        with monkeypatch.context() as broken:
            broken.setattr(losslessness, "compare", None)
            canary.offer(asked(fleet), recorded(), answered("Mauve"))
            await until(lambda: counted(metrics) == {Result.FAILED: 1})
        await until(lambda: canary.wants(asked(fleet)))
        canary.offer(asked(fleet), recorded(), answered("Red and blue"))
        await until(lambda: counted(metrics) == {Result.FAILED: 1, Result.SAME: 1})
        work.cancel()


async def test_only_answers_that_may_be_compared_are_kept(runtimes):
    async with canary_of(runtimes) as (canary, fleet, _):
        assert canary.wants(asked(fleet))
        assert canary.wants(asked(fleet, stream=True))
        assert not canary.wants(asked(fleet, temperature=1))
        assert not canary.wants(asked(fleet)._replace(own_ids=True))
        assert not canary.wants(asked(fleet)._replace(translation=object()))
        plain = fleet.plan(MODEL, FACTS_OFF, b"", lambda info: None)
        assert not canary.wants(asked(fleet)._replace(plan=plain))


async def test_a_share_is_drawn_by_the_requests_ids(runtimes):
    async with canary_of(runtimes, share=0.25) as (canary, fleet, _):
        kept = [canary.wants(asked(fleet, rid=f"chatcmpl-{'0' * 24}{draw:02x}ffffff")) for draw in range(256)]
        assert kept == [draw < 64 for draw in range(256)]
        canary.adopt(LosslessnessConfig())
        assert not canary.wants(asked(fleet, rid=f"chatcmpl-{'0' * 32}"))


async def test_the_watchers_check_what_the_relay_hands_them_until_a_change_of_the_file_ends_it(runtimes):
    conf = config(runtimes, per_minute=1e9)
    async with fleet_of(conf) as (fleet, metrics), Watchers(fleet, metrics) as watchers:
        exchange = asked(fleet)
        assert watchers.wants(exchange)
        watchers.finished(exchange, recorded(), answered("Red and blue"))
        await until(lambda: counted(metrics) == {Result.SAME: 1})
        watchers.finished(exchange, recorded(), None)  # too long to be kept
        watchers.adopt(conf.model_copy(update={"losslessness": LosslessnessConfig()}))
        assert not watchers.wants(exchange)
        watchers.finished(exchange, recorded(), answered("Red and blue"))
    assert counted(metrics) == {Result.SAME: 1}
    assert len(runtimes[1].generated) == 1


async def test_whoever_ends_the_gateway_does_not_wait_for_a_check(runtimes):
    runtimes[1].script = Script(before_head=Hold())
    async with fleet_of(config(runtimes)) as (fleet, metrics), Watchers(fleet, metrics) as watchers:
        watchers.finished(asked(fleet), recorded(), answered("Red and blue"))
        await until(lambda: runtimes[1].generated)
    assert runtimes[1].aborted == [runtimes[1].generated[0]["rid"]]


@pytest.mark.parametrize(
    ("canary", "message"),
    [
        ("{share: 0.1}", "losslessness: answers are to be checked, but no pool is a baseline"),
        ("{baseline_pool: eagle}", "losslessness.baseline_pool: eagle is no baseline pool"),
        ("{share: 1.1}", "losslessness.share: input should be less than or equal to 1"),
        ("{per_minute: 0}", "losslessness.per_minute: input should be greater than 0"),
        ("{shares: 1}", "losslessness.shares: unknown field"),
    ],
)
def test_a_file_that_asks_for_what_cannot_be_checked_is_refused_in_a_sentence(canary, message):
    text = f"pools: [{{name: eagle, replicas: ['http://127.0.0.1:1']}}]\nlosslessness: {canary}\n"
    with pytest.raises(strict_yaml.FileError) as refused:
        strict_yaml.parse(text.encode(), GatewayConfig)
    assert str(refused.value) == message


def test_several_workers_check_together_no_more_than_one_would():
    pools = (PoolConfig(name="eagle", replicas=("http://127.0.0.1:1",)),)
    assert GatewayConfig(pools=pools).share(4).losslessness.per_minute == 1.5
