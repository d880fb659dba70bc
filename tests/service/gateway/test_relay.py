"""A request's life against a runtime that answers, fails, stalls, lies or dies: the right status, the right end."""

import asyncio
import json
import socket
from types import SimpleNamespace

import openai
import pytest

from service.gateway.app import create_app
from service.gateway.lifeline import Lifelines
from service.gateway.settings import Settings
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import asked, counter, events, gateway_before, receive, until
from tests.service.gateway.scripted_upstream import MODEL, Cut, Hold, Script

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def test_an_answer_is_passed_on_without_sglangs_own_fields(gateway, upstream, chat):
    response = gateway.post(CHAT, json=chat)
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == "Red and blue"
    assert answer["usage"]["completion_tokens"] == 11
    assert response.headers["content-length"] == str(len(response.content))
    assert answer["id"] == upstream.generated[0]["rid"]
    assert not {"sglext", "metadata"} & set(answer)


def test_acceptance_figures_are_passed_on_when_asked_for(gateway, chat):
    answer = gateway.post(CHAT, json=chat | {"return_spec_tokens_details": True}).json()
    assert answer["sglext"]["spec_tokens_details"]["spec_verify_ct"] == 6


def test_the_runtime_is_always_asked_for_figures_under_an_id_of_fixed_length(gateway, upstream, chat):
    for path, body in [(CHAT, chat), (TEXT, {"model": MODEL, "prompt": "The sky is"})]:
        gateway.post(path, json=body)
    first, second = upstream.generated
    assert first["return_spec_tokens_details"] is True
    assert first["rid"].startswith("chatcmpl-")
    assert len(first["rid"]) == len("chatcmpl-") + 32
    assert second["rid"].startswith("cmpl-")


def test_the_document_is_sent_as_it_came_without_nulls_and_ignored_fields(gateway, upstream, chat):
    extra = {"temperature": 0, "top_k": 5, "stop": ["\n", "é"], "max_tokens": 5, "response_format": {"type": "text"}}
    ignored = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "seed": None,
        "tools": None,
    }
    assert gateway.post(CHAT, json=chat | extra | ignored).is_success
    sent = upstream.generated[0]
    assert sent == chat | extra | {"rid": sent["rid"], "return_spec_tokens_details": True}


def test_credentials_are_not_sent_upstream(gateway, upstream, chat):
    gateway.post(CHAT, json=chat, headers={"authorization": "Bearer sk-secret", "cookie": "a=b", "x-other": "1"})
    assert not {b"authorization", b"cookie", b"x-other"} & set(upstream.headers[0])


def test_answers_can_be_sent_back_as_history(gateway, upstream, chat):
    message = gateway.post(CHAT, json=chat).json()["choices"][0]["message"]
    history = [*chat["messages"], message, {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    assert gateway.post(CHAT, json=chat | {"messages": history}).is_success


def test_a_stream_is_relayed_byte_for_byte_without_what_was_not_asked_for(gateway, upstream, chat):
    response = gateway.post(CHAT, json=chat | {"stream": True})
    told = wire.stream_of(upstream.generated[0]["rid"])
    assert response.content == b"".join([*told[:-3], wire.DONE])
    assert response.headers["content-type"].startswith("text/event-stream")
    assert upstream.generated[0]["stream_options"] == {"include_usage": True}


def test_usage_and_figures_arrive_in_a_stream_when_asked_for(gateway, upstream, chat):
    asked = {"stream": True, "stream_options": {"include_usage": True}, "return_spec_tokens_details": True}
    response = gateway.post(CHAT, json=chat | asked)
    assert response.content == b"".join(wire.stream_of(upstream.generated[0]["rid"]))


def test_text_that_looks_like_the_wire_is_text(gateway, upstream, chat):
    text = '"choices":[] data: [DONE]\n\ndata: {"error"'
    upstream.script = Script(steps=[wire.chunk("chatcmpl-1", text), wire.DONE])
    received = events(gateway.post(CHAT, json=chat | {"stream": True}))
    assert json.loads(received[0])["choices"][0]["delta"]["content"] == text


def test_the_chunks_of_several_choices_carry_one_id(gateway, upstream, chat):
    steps = [wire.chunk("aaa", "x", index=0), wire.chunk("bbb", "y", index=1), wire.DONE]
    upstream.script = Script(steps=steps)
    received = events(gateway.post(CHAT, json=chat | {"stream": True, "n": 2}))
    assert {json.loads(data)["id"] for data in received[:-1]} == {upstream.generated[0]["rid"]}


def test_the_first_chunk_is_passed_on_before_the_runtime_is_done(gateway, upstream, chat):
    upstream.script = Script(steps=[wire.chunk("a", "Red"), Hold()])
    with gateway.stream("POST", CHAT, json=chat | {"stream": True}) as response:
        assert b"Red" in next(response.iter_raw())


FAILURES = [
    (
        400,
        wire.error("The input (9043 tokens) is longer than the model's context length (8192 tokens).", 400),
        400,
        "context_length_exceeded",
    ),
    (
        400,
        wire.error("Failed to compile regex grammar: [05:50:33] /project/x.cc:83: bad\nmore", 400),
        400,
        "invalid_grammar",
    ),
    (400, wire.error("something else", 400), 400, "invalid_request"),
    (503, wire.error("The request queue is full.", 503, "503"), 429, "queue_full"),
    (503, wire.error("Server is shutting down", 503, "503"), 503, "upstream_unavailable"),
    (500, wire.error("Internal server error: secret detail", 500), 502, "upstream_failed"),
    (404, {"detail": "Not Found"}, 502, "upstream_failed"),
]


@pytest.mark.parametrize(("status", "body", "expected", "code"), FAILURES, ids=lambda value: str(value)[:40])
def test_the_runtimes_errors_keep_a_real_status(gateway, upstream, chat, status, body, expected, code):
    for stream in (False, True):
        upstream.script = Script(status=status, body=json.dumps(body).encode())
        response = gateway.post(CHAT, json=chat | {"stream": stream})
        assert (response.status_code, response.json()["error"]["code"]) == (expected, code)
        assert "secret" not in response.text
        assert ("retry-after" in response.headers) == (expected in (429, 503))


def test_source_locations_are_cut_from_the_runtimes_messages(gateway, upstream, chat):
    upstream.script = Script(status=400, body=json.dumps(FAILURES[1][1]).encode())
    error = gateway.post(CHAT, json=chat | {"regex": "("}).json()["error"]
    assert (error["message"], error["param"]) == ("Failed to compile regex grammar: bad", "regex")


def test_an_error_as_a_streams_first_event_is_a_status(gateway, upstream, chat):
    upstream.script = Script(steps=[wire.event({"error": wire.error("The request queue is full.", 503)}), wire.DONE])
    response = gateway.post(CHAT, json=chat | {"stream": True})
    assert response.status_code == 429


RED = wire.chunk("a", "Red")
BROKEN = {
    "an error event": ([RED, wire.event({"error": wire.error("out of memory", 500)}), wire.DONE], "upstream_failed"),
    "cut": ([RED, Cut()], "upstream_protocol_error"),
    "no DONE": ([RED], "upstream_protocol_error"),
    "half an event": ([RED, b"data: {"], "upstream_protocol_error"),
    "garbage": ([RED, b"<html>\n\n", wire.DONE], "upstream_protocol_error"),
    "a summary that is no JSON": ([RED, b'data: {"choices":[],\n\n', wire.DONE], "upstream_protocol_error"),
    "usage in other words": ([RED, wire.summary("a", usage={"tokens": 3}), wire.DONE], "upstream_protocol_error"),
}


@pytest.mark.parametrize(("steps", "code"), BROKEN.values(), ids=BROKEN)
def test_a_stream_that_breaks_ends_with_an_error_event_and_no_done(gateway, upstream, chat, growth, steps, code):
    upstream.script = Script(steps=steps)
    response = gateway.post(CHAT, json=chat | {"stream": True})
    assert response.status_code == 200
    chunk, last = events(response)
    assert json.loads(chunk)["choices"][0]["delta"]["content"] == "Red"
    assert json.loads(last)["error"]["code"] == code
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="error", status="2xx") == 1)
    if code == "upstream_protocol_error":
        assert upstream.aborted == [upstream.generated[0]["rid"]]


@pytest.mark.parametrize(("steps", "code"), BROKEN.values(), ids=BROKEN)
def test_events_before_a_break_are_delivered_even_in_the_same_packet(gateway, upstream, chat, steps, code):
    packet = b"".join(step for step in steps if isinstance(step, bytes))
    upstream.script = Script(steps=[packet, *(step for step in steps if not isinstance(step, bytes))])
    assert b"Red" in gateway.post(CHAT, json=chat | {"stream": True}).content


ODD_USAGE = json.dumps({"usage": {"tokens": 3}}).encode()
ODD_FIGURES = json.dumps({"sglext": {"spec_tokens_details": {"a": 1}}}).encode()


@pytest.mark.parametrize("script", [Script(body=body) for body in (b"<html>", b"[]", ODD_USAGE, ODD_FIGURES)])
def test_a_broken_answer_is_a_502_and_aborted(gateway, upstream, chat, script):
    upstream.script = script
    assert gateway.post(CHAT, json=chat).status_code == 502
    assert upstream.aborted == [upstream.generated[0]["rid"]]


def test_a_runtime_that_falls_silent_is_a_504_or_an_error_event(session_upstream, chat):
    session_upstream.reset()
    with gateway_before(session_upstream.url, stall_timeout_s=0.2, response_timeout_s=0.2) as client:
        session_upstream.script = Script(before_head=Hold())
        for stream in (False, True):
            response = client.post(CHAT, json=chat | {"stream": stream})
            assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
        grew = counter(client)
        session_upstream.script = Script(steps=[RED, Hold()])
        response = client.post(CHAT, json=chat | {"stream": True})
        assert json.loads(events(response)[-1])["error"]["code"] == "upstream_timeout"
        assert grew("aerie_upstream_zombies_total", reason="upstream_timeout") == 1
    assert session_upstream.aborted == [request["rid"] for request in session_upstream.generated]


def test_silence_after_done_costs_the_client_nothing(gateway, upstream, chat, growth):
    upstream.script = Script(steps=[RED, wire.DONE, Hold()])
    response = gateway.post(CHAT, json=chat | {"stream": True})
    assert response.content == RED + wire.DONE
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 1)
    assert upstream.aborted == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [Script(before_head=Hold()), Script(steps=[RED, Hold()])], ids=["early", "midway"])
def test_a_client_that_leaves_has_its_request_aborted(gateway, upstream, chat, growth, stream, script):
    upstream.script = script if stream else Script(before_head=Hold())
    with asked(gateway, CHAT, chat | {"stream": stream}) as connection:
        if stream and script.steps:
            receive(connection, b"Red")
        else:
            until(lambda: upstream.generated)
    until(lambda: upstream.aborted, "the abort")
    assert upstream.aborted == [upstream.generated[0]["rid"]]
    status = "2xx" if stream and script.steps else "4xx"
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="cancelled", status=status) == 1)
    until(lambda: upstream.left == [upstream.generated[0]["rid"]], "the closed connection to the runtime")
    assert growth("aerie_upstream_aborts_total", result="accepted") == 1
    assert growth("aerie_requests_in_flight") == 0


def test_a_request_that_outlives_its_client_is_counted_once(gateway, upstream, chat, growth):
    upstream.script = Script(before_head=Hold())
    with asked(gateway, CHAT, chat):
        until(lambda: upstream.generated)
    until(lambda: growth("aerie_upstream_zombies_total", reason="client_closed_request") == 1)
    until(lambda: growth("aerie_upstream_aborts_total", result="accepted") == 1)


def test_a_request_whose_client_stays_is_no_zombie(gateway, upstream, chat, growth):
    gateway.post(CHAT, json=chat)
    gateway.post(CHAT, json={})
    upstream.script = Script(status=500, body=b"{}")
    gateway.post(CHAT, json=chat)
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="error", status="5xx") == 1)
    assert growth("aerie_upstream_zombies_total", reason="client_closed_request") == 0
    assert upstream.aborted == []


def test_a_client_that_does_not_read_is_cut_off_and_its_request_aborted(session_upstream, chat):
    session_upstream.reset()
    with gateway_before(session_upstream.url, stall_timeout_s=0.3) as client:
        session_upstream.script = Script(steps=[wire.chunk("a", "x" * 2**20)] * 32)
        grew = counter(client)
        body = json.dumps(chat | {"stream": True})
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall((head + body).encode())
            until(lambda: session_upstream.aborted, "the abort")
            until(lambda: grew("aerie_requests_total", route=CHAT, outcome="cancelled", status="2xx") == 1)


def test_all_ids_of_a_request_are_aborted(gateway, upstream):
    steps = [wire.chunk("aaa", "x"), wire.chunk("bbb", "y", index=1), Hold()]
    upstream.script = Script(steps=steps)
    body = {"model": MODEL, "prompt": ["a", "b"], "n": 1, "stream": True}
    with asked(gateway, TEXT, body) as connection:
        receive(connection, b'"y"')
    until(lambda: len(upstream.aborted) == 4)
    rid = upstream.generated[0]["rid"]
    assert set(upstream.aborted) == {f"{rid}_0", f"{rid}_1", "aaa", "bbb"}


def test_a_runtime_that_is_not_ready_is_a_503(session_upstream, chat):
    session_upstream.reset()
    with gateway_before(session_upstream.url) as client:
        session_upstream.ready_status = 503
        until(lambda: client.get("/readyz").status_code == 503)
        response = client.post(CHAT, json=chat)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_unavailable")
        assert "retry-after" in response.headers
        assert client.get("/v1/models").status_code == 503
        assert client.get("/healthz").is_success
    session_upstream.reset()


def test_a_runtime_that_dies_is_a_503_and_comes_back_described_anew(chat):
    upstream = wire.ScriptedUpstream()
    with wire.served(upstream) as url, gateway_before(url) as client:
        grew = counter(client)
        upstream.ready_status = 503
        until(lambda: grew("aerie_upstream_up", pool="default", replica=url.removeprefix("http://")) == -1)
        upstream.model_info["tool_call_parser"] = "qwen25"
        upstream.ready_status = 200
        until(lambda: client.get("/readyz").is_success)
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        assert client.post(CHAT, json=chat | {"tools": tools, "tool_choice": "auto"}).is_success


def test_a_runtime_that_is_gone_between_probes_is_a_503(session_upstream, chat):
    upstream = wire.ScriptedUpstream()
    with wire.served(upstream) as url:
        context = gateway_before(url)
        client = context.__enter__()
    try:
        response = client.post(CHAT, json=chat)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_unavailable")
    finally:
        context.__exit__(None, None, None)


def test_the_openai_sdk_works(gateway, upstream):
    client = openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="sk-secret", max_retries=0)
    messages = [{"role": "user", "content": "Name two colours."}]
    with client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        answer = client.chat.completions.create(model=MODEL, messages=messages, extra_body={"top_k": 3})
        assert answer.choices[0].message.content == "Red and blue"
        stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Red and blue"
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=MODEL, messages=messages, max_tokens=0)
        assert refused.value.param == "max_tokens"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-4", messages=messages)
        upstream.script = Script(steps=BROKEN["cut"][0])
        with pytest.raises(openai.APIError, match="closed the connection"):
            list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))


def test_a_request_the_server_gives_up_on_is_an_error_not_a_success(upstream, chat):
    async def receive():
        return await coming.get()

    async def run():
        app = create_app(Settings(upstream=upstream.url, probe_interval_s=0.05))
        async with app.router.lifespan_context(app) as state:
            fleet, metrics = state["around"].fleet, state["around"].metrics
            await asyncio.to_thread(until, lambda: fleet.reason is None)
            scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}
            scope |= {"headers": [(b"content-type", b"application/json")], "state": state | {"connection": connection}}
            coming.put_nowait({"type": "http.request", "body": json.dumps(chat).encode()})
            task = asyncio.create_task(app(scope, receive, None))
            await asyncio.to_thread(until, lambda: upstream.generated)
            task.cancel()
            await asyncio.wait([task])
            labels = {"route": CHAT, "outcome": "error", "status": "4xx"}
            return metrics.registry.get_sample_value("aerie_requests_total", labels)

    coming = asyncio.Queue()
    connection = SimpleNamespace(
        whole_body_bytes=None, body_is_here=True, watch=lambda: None, lifelines=Lifelines(AssertionError)
    )
    upstream.script = Script(before_head=Hold())
    assert asyncio.run(run()) == 1
