"""The losslessness canary against real SGLang: one runtime that speculates, one that does not, both in bfloat16."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from service.gateway.compare import Result
from service.gateway.config import GatewayConfig, LosslessnessConfig, PoolConfig
from service.gateway.exchange import Exchange
from service.gateway.fleet import Fleet
from service.gateway.losslessness import Canary
from service.gateway.metrics import Metrics
from service.gateway.policy import Kind
from service.gateway.record import RequestRecord, Usage
from service.gateway.settings import Settings
from tests.e2e.servers import Server, aerie, prompts
from tests.service.gateway.conftest import counter, gateway_with, samples, until
from tests.service.gateway.exchanges import exchange_of

pytestmark = pytest.mark.anyio

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MODEL = "smollm2-135m-instruct"
TOKENS = 24
FRANCE = "What is the capital of France? Answer in one sentence."
CANARY = LosslessnessConfig(share=1.0, per_minute=1e6)
AGREE = {Result.SAME, Result.WITHIN_EPSILON}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def runtimes(server: Server) -> Iterator[tuple[Server, Server]]:
    with aerie("runtime", "--no-speculation") as plain:
        yield server, plain


@asynccontextmanager
async def canary_of(runtimes: tuple[Server, Server]) -> AsyncIterator[tuple[Canary, Fleet]]:
    metrics = Metrics()
    eagle = PoolConfig(name="eagle", replicas=(runtimes[0].runtime_url,))
    plain = PoolConfig(name="plain", kind=Kind.BASELINE, replicas=(runtimes[1].runtime_url,))
    config = GatewayConfig(pools=(eagle, plain), losslessness=CANARY)
    async with asyncio.timeout(300), Fleet(config, Settings(), metrics) as fleet:
        while not all(station.pool.ready for station in fleet.stations):  # noqa: ASYNC110 - only once
            await asyncio.sleep(0.1)
        yield Canary(fleet, metrics), fleet


def answer_of(runtime: Server, exchange: Exchange) -> tuple[RequestRecord, dict[str, Any]]:
    """What the speculative runtime answers, as the gateway would have delivered and recorded it."""
    said = runtime.client.post(runtime.runtime_url + exchange.path, json=orjson.loads(exchange.body)).json()
    usage = Usage(said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"])
    return RequestRecord("req-1", "POST", exchange.path, pool="eagle", model=MODEL, usage=usage), said


def chat(fleet: Fleet, question: str, **fields: object) -> Exchange:
    return exchange_of(fleet, CHAT, messages=[{"role": "user", "content": question}], max_tokens=TOKENS, **fields)


async def test_a_changed_answer_is_a_mismatch_and_the_true_one_is_not(runtimes: tuple[Server, Server]) -> None:
    async with canary_of(runtimes) as (canary, fleet):
        exchange = chat(fleet, FRANCE)
        record, said = answer_of(runtimes[0], exchange)
        message, results = said["choices"][0]["message"], {}
        text = message["content"]
        assert "Paris" in text
        for changed in (text, text.replace("Paris", "Lyon"), text + " Lyon.", text.partition(" of")[0], ""):
            message["content"] = changed
            results[changed] = await canary.check(exchange, record, orjson.dumps(said))
    true, *others = results.values()
    assert true in AGREE
    assert set(others) == {Result.MISMATCH}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Write the line \U0001f389\U0001f389 日本 three times."}]}),
        (CHAT, {"messages": [{"role": "user", "content": FRANCE}], "stop": ["Paris"]}),
        (TEXT, {"prompt": "日本 \U0001f389 日本 \U0001f389 日本 \U0001f389 日本"}),
        (TEXT, {"prompt": "One, two, three,", "stop": [" seven", "ten"]}),
    ],
)
async def test_pieces_of_characters_stops_and_completions_are_read_as_sglang_writes_them(
    runtimes: tuple[Server, Server], path: str, fields: dict[str, object]
) -> None:
    """A changed last character would be seen: the walk gets that far."""
    async with canary_of(runtimes) as (canary, fleet):
        exchange = exchange_of(fleet, path, max_tokens=9, **fields)
        record, said = answer_of(runtimes[0], exchange)
        assert await canary.check(exchange, record, orjson.dumps(said)) in AGREE
        choice = said["choices"][0]
        where, name = (choice["message"], "content") if path == CHAT else (choice, "text")
        where[name] = where[name].rstrip("\ufffd")[:-1] + "\N{SNOWMAN}"
        assert await canary.check(exchange, record, orjson.dumps(said)) in {Result.MISMATCH, Result.WITHIN_EPSILON}


@pytest.fixture
def gateway(runtimes: tuple[Server, Server], tmp_path: Path) -> Iterator[httpx.Client]:
    path = tmp_path / "gateway.yaml"
    listed = [
        {"name": "eagle", "kind": "speculative", "replicas": [runtimes[0].runtime_url]},
        {"name": "plain", "kind": "baseline", "replicas": [runtimes[1].runtime_url]},
    ]
    sections = {"losslessness": {"share": 1.0, "per_minute": 1e6}, "policy": {"baseline_share": 0.0}}
    path.write_text(yaml.safe_dump({"pools": listed, **sections}))
    with gateway_with(config=path) as client:
        until(lambda: up(client) == 2, "both runtimes' readiness")
        client.timeout = httpx.Timeout(300)
        yield client


def up(client: httpx.Client) -> float:
    return sum(value for (name, _), value in samples(client).items() if name == "aerie_upstream_up")


def test_greedy_requests_through_the_gateway_end_in_same_or_within_epsilon(gateway: httpx.Client) -> None:
    growth, asked = counter(gateway), prompts()[:4]
    for number, prompt in enumerate(asked, start=1):
        greedy = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS, "stream": number % 2 == 0}
        question = {"messages": [{"role": "user", "content": prompt}]} if number != 3 else {"prompt": prompt}
        answer = gateway.post(CHAT if number != 3 else TEXT, json=greedy | question)
        assert answer.headers["x-aerie-pool"].startswith("eagle")
        until(lambda: checks(growth).total() == number, "the check")  # noqa: B023 - called in this turn
    assert checks(growth).keys() <= AGREE


def checks(growth: Any) -> Counter[Result]:
    found = {result: int(growth("aerie_losslessness_checks_total", result=result)) for result in Result}
    return Counter({result: times for result, times in found.items() if times})


def test_a_request_that_samples_is_not_checked(gateway: httpx.Client) -> None:
    growth = counter(gateway)
    body = {"model": MODEL, "messages": [{"role": "user", "content": FRANCE}], "max_tokens": 4, "temperature": 0.5}
    assert gateway.post(CHAT, json=body).is_success
    assert gateway.post(CHAT, json=body | {"temperature": 0}).is_success
    until(lambda: checks(growth).total() == 1, "the check of the greedy one")
