"""Tokenize and detokenize: the rules of every route, no place in the queue, another replica where one cannot answer."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.gateway import lookup
from service.gateway.tokens_protocol import DetokenizeRequest, TokenizeRequest
from tests.service.gateway.conftest import gateway_before, gateway_with, until
from tests.service.gateway.scripted_upstream import CONTEXT, MODEL, Cut, Hold, Release, Script
from tests.service.gateway.test_bad_input import assert_refused
from tests.service.gateway.test_fleet import occupied, total
from tests.service.gateway.test_guard import bearer, entry, file, start  # noqa: F401 - fixtures

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "f"}}


def text(**fields):
    return {"model": MODEL, "prompt": "hello", **fields}


def said(**fields):
    return {"model": MODEL, "messages": [USER], **fields}


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_text_becomes_tokens_and_tokens_a_text(gateway, upstream, prefix):
    answer = gateway.post(f"{prefix}/tokenize", json=text(add_special_tokens=False)).json()
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), CONTEXT)
    back = gateway.post(f"{prefix}/detokenize", json={"model": MODEL, "tokens": answer["tokens"]})
    assert back.json() == {"text": '"hello"'}
    assert upstream.asked == [
        ("/v1/tokenize", text(add_special_tokens=False)),
        ("/v1/detokenize", {"model": MODEL, "tokens": answer["tokens"]}),
    ]
    assert upstream.generated == []


def test_what_the_client_left_out_stays_out(gateway, upstream):
    assert gateway.post("/v1/tokenize", json=said(add_generation_prompt=True, tools=None)).is_success
    assert upstream.asked[0][1] == said(add_generation_prompt=True)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {"model": MODEL}, "prompt"),
        ("tokenize", text(messages=[USER]), "prompt"),
        ("tokenize", {"prompt": "hello"}, "model"),
        ("tokenize", text(prompt=[]), "prompt"),
        ("tokenize", text(prompt=[1]), "prompt.0"),
        ("tokenize", text(prompt=3), "prompt"),
        ("tokenize", text(tools=[TOOL]), "tools"),
        ("tokenize", text(add_generation_prompt=True), "add_generation_prompt"),
        ("tokenize", text(chat_template="{{ 1 }}"), "chat_template"),
        ("tokenize", said(messages=[]), "messages"),
        ("tokenize", said(messages=[{"role": "pirate", "content": "ahoy"}]), "messages.0.role"),
        ("tokenize", said(tools=[TOOL, TOOL]), "tools"),
        ("tokenize", said(tools=[TOOL]), "tools"),  # no tool call parser: such a chat would be refused too
        ("tokenize", said(tool_choice="auto"), "tool_choice"),
        ("tokenize", said(reasoning_effort="low"), "reasoning_effort"),
        ("tokenize", said(chat_template_kwargs={"chat_template": "{{ 1 }}"}), "chat_template_kwargs.chat_template"),
        ("tokenize", said(continue_final_message=True, add_generation_prompt=False), "continue_final_message"),
        ("detokenize", {"model": MODEL}, "tokens"),
        ("detokenize", {"model": MODEL, "tokens": [-1]}, "tokens.0"),
        ("detokenize", {"model": MODEL, "tokens": [2**31]}, "tokens.0"),
        ("detokenize", {"model": MODEL, "tokens": [1.5]}, "tokens.0"),
        ("detokenize", {"model": MODEL, "tokens": [[1], [True]]}, "tokens.1.0"),
        ("detokenize", {"model": MODEL, "tokens": "hello"}, "tokens"),
    ],
)
def test_a_bad_question_names_its_field_and_reaches_nobody(gateway, upstream, path, body, param):
    error = assert_refused(gateway.post(f"/v1/{path}", json=body), upstream)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert upstream.asked == []


def test_tools_are_tokenized_where_the_runtime_serves_tools(upstream):
    upstream.model_info["tool_call_parser"] = "qwen25"
    with gateway_before(upstream.url) as client:
        assert client.post("/v1/tokenize", json=said(tools=[TOOL], tool_choice="auto")).is_success
        assert upstream.asked[0][1] == said(tools=[TOOL], tool_choice="auto")


@pytest.mark.parametrize("path", ["/v1/tokenize", "/detokenize"])
def test_unknown_models_media_types_and_bodies_are_refused_as_everywhere(gateway, upstream, path):
    field = {"tokens": [1]} if "detokenize" in path else {"prompt": "hello"}
    assert_refused(gateway.post(path, json={"model": "gpt-4", **field}), upstream, 404)
    assert_refused(gateway.post(path, content=b"{}"), upstream, 415)
    assert_refused(gateway.post(path, content=b"{", headers={"content-type": "application/json"}), upstream)
    assert_refused(gateway.get(path), upstream, 405)
    assert_refused(gateway.post(path, json={"model": MODEL, "prompt": "x" * 2**20}), upstream, 413)
    assert upstream.asked == []


def test_keys_allow_lists_and_limits_hold(start, upstream):  # noqa: F811
    client = start(entry(limits={"requests_per_s": 0.1, "burst": 1}, models=[MODEL]))
    assert client.post("/v1/tokenize", json=text()).status_code == 401
    assert client.post("/v1/tokenize", json=text(model="other"), headers=bearer()).status_code == 403
    first = client.post("/v1/tokenize", json=text(), headers=bearer())
    assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    second = client.post("/v1/tokenize", json=text(), headers=bearer())
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(second.headers["retry-after"]) > 0
    assert len(upstream.asked) == 1


def test_a_question_costs_its_tokens_and_an_unanswered_one_none(start, upstream):  # noqa: F811
    client = start(entry(limits={"tokens_per_min": 1000}))

    def left_after(path, body):
        answer = client.post(path, json=body, headers=bearer())
        return answer.status_code, int(answer.headers.get("x-ratelimit-remaining-tokens", -1))

    upstream.script = Script(status=503, body=b'{"message": "loading"}')
    assert left_after("/v1/tokenize", text(prompt="x" * 3000)) == (503, -1)
    upstream.script = Script()
    status, left = left_after("/v1/tokenize", text(prompt="x" * 298))
    assert (status, 700 <= left < 800) == (200, True)
    status, left = left_after("/v1/detokenize", {"model": MODEL, "tokens": [[1] * 100, [2] * 200]})
    assert (status, 400 <= left < 500) == (200, True)
    upstream.script = Script(body=b'{"tokens": [[1], [2, 3]], "count": [1, 2]}')
    status, left = left_after("/v1/tokenize", text(prompt=["x" * 500, "y" * 500]))
    assert (status, 390 < left < 500) == (200, True)
    answer = client.post("/v1/tokenize", json=text(prompt="x" * 50_000), headers=bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_exceeds_limit")


def test_a_runtime_that_is_silent_is_a_504(upstream):
    with gateway_before(upstream.url, tokenize_timeout_s=0.2) as client:
        upstream.script = Script(before_head=Hold())
        assert client.post("/v1/tokenize", json=text()).status_code == 504
        until(lambda: upstream.left == [None], "the runtime's being left")


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(before_head=Cut()), 502, "upstream_protocol_error"),
        (Script(body=b"<html>"), 502, "upstream_protocol_error"),
        (Script(status=500, body=b'{"message": "no"}'), 502, "upstream_failed"),
        (Script(status=400, body=b'{"message": "no such template"}'), 400, "invalid_request"),
    ],
    ids=["cut", "garbage", "failure", "refusal"],
)
def test_what_a_runtime_does_wrong_has_its_status(gateway, upstream, script, status, code):
    upstream.script = script
    answer = gateway.post("/v1/tokenize", json=text())
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_another_replica_is_asked_where_one_is_not_ready(runtimes, growth):
    first, second = runtimes[:2]
    with gateway_before((first.url, second.url)) as client:
        until(lambda: client.get("/readyz").json() == {"status": "ok"})
        first.script = second.script = Script(status=503, body=b'{"message": "loading"}')
        assert client.post("/v1/tokenize", json=text()).status_code == 503
        assert [len(first.asked), len(second.asked)] == [1, 1]
        second.script = Script()
        answers = {client.post("/v1/tokenize", json=text()).status_code for _ in range(8)}
        assert answers == {httpx.codes.OK}


def test_a_clients_trace_goes_on(gateway, upstream):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert gateway.post("/v1/tokenize", json=text(), headers={"traceparent": trace}).is_success
    assert upstream.headers[0][b"traceparent"] == trace.encode()


def test_nothing_waits_behind_what_is_being_generated(upstream, tmp_path, chat):
    pools = {"name": "only", "replicas": [upstream.url], "max_in_flight": 1}
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump({"pools": [pools]}))
    with gateway_with(config=config) as client, occupied(client, upstream, chat):
        assert client.post("/v1/tokenize", json=text()).is_success


def test_questions_at_once_are_bounded_and_take_no_place(runtimes, chat, monkeypatch):
    monkeypatch.setattr(lookup, "QUESTIONS_AT_ONCE", 1)
    release = Release()
    with gateway_before(tuple(runtime.url for runtime in runtimes[:2])) as client, ThreadPoolExecutor() as beside:
        until(lambda: client.get("/readyz").json() == {"status": "ok"})
        for runtime in runtimes[:2]:
            runtime.script = Script(before_head=release)
        under_way = [beside.submit(client.post, "/v1/tokenize", json=text()) for _ in range(2)]
        until(lambda: all(runtime.asked for runtime in runtimes[:2]), "a question at each")
        answer = client.post("/v1/tokenize", json=text())
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert total(client, "aerie_upstream_requests_in_flight") == 0
        release.now.set()
        assert all(one.result(20).is_success for one in under_way)
        assert client.post("/v1/tokenize", json=text()).is_success


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
FIELDS = st.sampled_from([*TokenizeRequest.model_fields, *DetokenizeRequest.model_fields, "x"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=st.sampled_from([TokenizeRequest, DetokenizeRequest]), fields=st.dictionaries(FIELDS, VALUES, max_size=4))
def test_a_document_is_a_question_or_a_list_of_what_is_wrong(model, fields):
    try:
        wanted = model.model_validate(fields)
    except ValidationError:
        return
    assert set(fields) <= set(model.model_fields)
    assert fields[wanted.prompt_param] is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=8) | st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4)))
def test_lists_of_ids_and_lists_of_lists_are_questions(tokens):
    assert DetokenizeRequest.model_validate({"model": MODEL, "tokens": tokens}).tokens == tokens
