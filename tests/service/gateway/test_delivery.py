"""An answer on its way to the client: what is passed on, under which route it is counted, and what it leaves behind."""

import asyncio
import gc
import weakref

import httpx
import pytest

from service.gateway import relay as relay_module
from service.gateway.connection import Connection
from service.gateway.errors import GatewayError, Overloaded
from service.gateway.settings import Settings
from service.gateway.sglang import ABORTS_AT_ONCE, SGLang
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import until
from tests.service.gateway.scripted_upstream import MODEL, Release, Script

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
RED, BLUE = wire.chunk("a", "Red"), wire.chunk("a", "blue")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_forgotten_when_it_ends(gateway, chat, growth, monkeypatch, stream):
    served, plain_relay = [], relay_module.Relay.__init__

    def remembered(self, exchange, *rest):
        served.append(weakref.ref(self))
        plain_relay(self, exchange, *rest)

    monkeypatch.setattr(relay_module.Relay, "__init__", remembered)
    gc.disable()
    try:
        assert gateway.post(CHAT, json=chat | {"stream": stream}).is_success
        until(lambda: growth("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 1)
        (relay,) = served
        until(lambda: relay() is None, "without a collection, the request's end")
    finally:
        gc.enable()


def test_a_connection_is_forgotten_when_it_ends(gateway, chat, monkeypatch):
    made, plain = [], Connection.__init__

    def remembered(self, **given):
        made.append(weakref.ref(self))
        plain(self, **given)

    monkeypatch.setattr(Connection, "__init__", remembered)
    gc.disable()
    try:
        with httpx.Client(base_url=gateway.base_url, headers={"connection": "close"}, trust_env=False) as client:
            assert client.post(CHAT, json=chat | {"stream": True}).is_success
        (connection,) = made
        until(lambda: connection() is None, "without a collection, the connection's end")
    finally:
        gc.enable()


@pytest.mark.parametrize("asked", [{}, {"return_spec_tokens_details": True}])
@pytest.mark.parametrize("n", [1, 2])
def test_what_comes_after_the_end_of_a_stream_is_not_passed_on(gateway, upstream, chat, asked, n):
    upstream.script = Script(steps=[RED + wire.DONE + BLUE + b"garbage\n\n", BLUE])
    content = gateway.post(CHAT, json=chat | {"stream": True, "n": n} | asked).content
    assert content.endswith(wire.DONE)
    assert content.count(b"data: ") == 2


def test_the_chunks_of_a_translated_stream_are_counted_under_its_route(gateway, upstream, growth):
    pause = Release()
    upstream.script = Script(steps=[RED, pause, BLUE, wire.chunk("a", None, finish_reason="stop"), wire.DONE])
    body = {"model": MODEL, "input": "Name two colours.", "stream": True}
    with gateway.stream("POST", RESPONSES, json=body) as response:
        received = response.iter_raw()
        while b"Red" not in next(received):
            pass
        pause.now.set()
        assert b"blue" in b"".join(received)
    until(lambda: growth("aerie_requests_total", route=RESPONSES, outcome="ok", status="2xx") == 1)
    assert growth("aerie_inter_chunk_seconds_count", route=RESPONSES) >= 1
    assert growth("aerie_inter_chunk_seconds_count", route=CHAT) == 0


class _CountedAborts(SGLang):
    """No runtime: the aborts of ids in `refused` fail, and how many are under way at once is noted."""

    def __init__(self, refused=()):
        super().__init__("http://127.0.0.1:1", Settings())
        self.refused, self.under_way, self.most, self.taken = refused, 0, 0, []

    async def _abort(self, rid):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if rid in self.refused:
            raise Overloaded(f"not {rid}")
        self.taken.append(rid)


def test_aborts_are_sent_a_few_at_a_time():
    rids, client = [f"r{number}" for number in range(100)], _CountedAborts()
    asyncio.run(client.abort(rids))
    assert client.taken == rids
    assert client.most == ABORTS_AT_ONCE


def test_an_abort_that_fails_is_told_when_the_others_are_done():
    rids, client = [f"r{number}" for number in range(100)], _CountedAborts({"r3", "r50"})
    with pytest.raises(GatewayError, match=r"not r\d"):
        asyncio.run(client.abort(rids))
    assert {*client.taken, "r3", "r50"} == set(rids)
    assert client.under_way == 0


def test_a_runtime_that_takes_no_abort_is_asked_a_few_times_only():
    rids = [f"r{number}" for number in range(100)]
    client = _CountedAborts(frozenset(rids))
    with pytest.raises(GatewayError, match="not r0"):
        asyncio.run(client.abort(rids))
    assert (client.most, client.under_way, client.taken) == (ABORTS_AT_ONCE, 0, [])


@pytest.mark.parametrize(("prompts", "n", "is_served"), [(16, 8, True), (43, 3, False), (128, 2, False)])
def test_a_request_has_so_many_choices_over_all_its_prompts(gateway, upstream, prompts, n, is_served):
    response = gateway.post(TEXT, json={"model": MODEL, "prompt": ["a"] * prompts, "n": n, "max_tokens": 1})
    assert response.is_success is is_served
    assert len(upstream.generated) == is_served
    if not is_served:
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, "n", "invalid_value")
        assert f"not {prompts * n}" in error["message"]
