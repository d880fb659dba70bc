"""Bad input: a 4xx in OpenAI's format with the field named, nothing reaches SGLang, the server lives on."""

import json
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.gateway.conftest import gateway_before, until
from tests.service.gateway.scripted_upstream import CONTEXT, MODEL

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hello"}


def chat_with(**fields):
    return {"model": MODEL, "messages": [USER], **fields}


def messages(*given):
    return {"model": MODEL, "messages": list(given)}


FUNCTION = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}

# what is sent, and the field the answer must name
FIELDS = [
    (chat_with(max_tokens=0), "max_tokens"),
    (chat_with(max_tokens=-1), "max_tokens"),
    (chat_with(max_tokens=CONTEXT), "max_tokens"),
    (chat_with(max_completion_tokens=10**30), "max_completion_tokens"),
    (chat_with(max_completion_tokens=CONTEXT + 1), "max_completion_tokens"),
    (chat_with(max_tokens=3, max_completion_tokens=4), "max_completion_tokens"),
    (chat_with(max_tokens="3"), "max_tokens"),
    (chat_with(max_tokens=3.0), "max_tokens"),
    (chat_with(max_tokens=True), "max_tokens"),
    (chat_with(temperature=2.1), "temperature"),
    (chat_with(temperature="hot"), "temperature"),
    (chat_with(top_p=0), "top_p"),
    (chat_with(top_k=0), "top_k"),
    (chat_with(top_k=2**40), "top_k"),
    (chat_with(min_p=1.5), "min_p"),
    (chat_with(n=0), "n"),
    (chat_with(n=129), "n"),
    (chat_with(stop=""), "stop"),
    (chat_with(stop=["a"] * 33), "stop"),
    (chat_with(stop=["a", ""]), "stop.1"),
    (chat_with(stop=3), "stop"),
    (chat_with(presence_penalty=2.5), "presence_penalty"),
    (chat_with(repetition_penalty=0), "repetition_penalty"),
    (chat_with(logit_bias={"a": 1}), "logit_bias.a"),
    (chat_with(logit_bias={"1": 101}), "logit_bias.1"),
    (chat_with(seed=2**63), "seed"),
    (chat_with(seed=1, n=2), "seed"),
    (chat_with(top_logprobs=3), "top_logprobs"),
    (chat_with(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat_with(min_tokens=5, max_tokens=4), "min_tokens"),
    (chat_with(min_tokens=5, stop_token_ids=[10**9]), "min_tokens"),
    (chat_with(stop_regex="(("), "stop_regex"),
    (chat_with(stop_regex="(a+)+b"), "stop_regex"),
    (chat_with(stop_regex="(a|a)*b"), "stop_regex"),
    (chat_with(stream_options={"include_usage": True}), "stream_options"),
    (chat_with(stream=True, stream_options={"x": 1}), "stream_options.x"),
    (chat_with(stream="yes"), "stream"),
    (chat_with(response_format={"type": "xml"}), "response_format.type"),
    (chat_with(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (chat_with(response_format={"type": "json_object"}, regex="a"), "response_format"),
    (chat_with(tools=[]), "tools"),
    (chat_with(tools=[FUNCTION]), "tools"),  # no tool call parser
    (chat_with(tools=[FUNCTION, FUNCTION]), "tools"),
    (chat_with(tool_choice="required"), "tool_choice"),
    (chat_with(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools.0.function.name"),
    (chat_with(reasoning_effort="low"), "reasoning_effort"),
    (chat_with(store=True), "store"),
    (chat_with(return_hidden_states=True), "return_hidden_states"),
    (chat_with(lora_path="x"), "lora_path"),
    (chat_with(chat_template_kwargs={"chat_template": "{{ 1 }}"}), "chat_template_kwargs.chat_template"),
    (chat_with(rid="chatcmpl-1"), "rid"),
    (chat_with(surprise=1), "surprise"),
    (messages(), "messages"),
    (messages({"role": "wizard", "content": "x"}), "messages.0.role"),
    (messages({"content": "x"}), "messages.0.role"),
    (messages(USER, {"role": "user"}), "messages.1.content"),
    (messages({"role": "user", "content": None}), "messages.0.content"),
    (messages({"role": "user", "content": []}), "messages.0.content"),
    (messages({"role": "user", "content": [IMAGE]}), "messages.0.content.0.type"),
    (messages({"role": "user", "content": "x", "mood": "good"}), "messages.0.mood"),
    (messages({"role": "assistant"}), "messages.0"),
    (messages({"role": "tool", "content": "x"}), "messages.0.tool_call_id"),
    (messages("hello"), "messages.0"),
    ({"model": MODEL, "messages": USER}, "messages"),
    ({"model": MODEL}, "messages"),
    ({"messages": [USER]}, "model"),
    ({"model": "", "messages": [USER]}, "model"),
    ({"model": 3, "messages": [USER]}, "model"),
]
PROMPTS = [
    ({"model": MODEL}, "prompt"),
    ({"model": MODEL, "prompt": ""}, "prompt"),
    ({"model": MODEL, "prompt": []}, "prompt"),
    ({"model": MODEL, "prompt": ["a", ""]}, "prompt.1"),
    ({"model": MODEL, "prompt": [1, 2, 10**9]}, "prompt"),
    ({"model": MODEL, "prompt": [[1, 2]]}, "prompt"),
    ({"model": MODEL, "prompt": "a", "logprobs": 21}, "logprobs"),
    ({"model": MODEL, "prompt": "a", "logprobs": 1, "echo": True}, "echo"),
    ({"model": MODEL, "prompt": "a", "best_of": 2}, "best_of"),
    ({"model": MODEL, "prompt": "a", "suffix": "b"}, "suffix"),
    ({"model": MODEL, "prompt": "a", "messages": []}, "messages"),
]


def assert_refused(response, upstream, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert upstream.generated == [], "a bad request reached the runtime"
    return error


@pytest.mark.parametrize(("body", "param"), FIELDS, ids=lambda value: json.dumps(value)[-60:])
def test_a_bad_chat_request_names_its_field(gateway, upstream, body, param):
    error = assert_refused(gateway.post(CHAT, json=body), upstream)
    assert error["param"] == param
    assert error["message"].startswith(param)


@pytest.mark.parametrize(("body", "param"), PROMPTS, ids=lambda value: json.dumps(value)[-60:])
def test_a_bad_completion_request_names_its_field(gateway, upstream, body, param):
    assert assert_refused(gateway.post(TEXT, json=body), upstream)["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_a_json_object_in_utf8_is_a_400(gateway, upstream, body):
    response = gateway.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert assert_refused(response, upstream)["code"] == "invalid_json"


def test_a_schema_nested_too_deeply_to_be_written_again_is_a_400(gateway, upstream):
    schema = b'{"a":' * 400 + b"1" + b"}" * 400
    body = json.dumps(chat_with(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}))
    body = body.encode().replace(b'"schema": {}', b'"schema": ' + schema)
    response = gateway.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert_refused(response, upstream)


def test_of_duplicate_keys_the_last_one_is_checked_and_sent(gateway, upstream, chat):
    body = json.dumps(chat)[:-1] + ', "max_tokens": 0, "max_tokens": 7}'
    assert gateway.post(CHAT, content=body, headers={"content-type": "application/json"}).is_success
    assert upstream.generated[0]["max_tokens"] == 7


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "multipart/form-data", "application/json; charset=latin-1"]
)
def test_a_wrong_content_type_is_a_415(gateway, upstream, chat, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    error = assert_refused(gateway.post(CHAT, content=json.dumps(chat), headers=headers), upstream, 415)
    assert error["code"] == "unsupported_media_type"


def test_a_charset_of_utf8_is_fine(gateway, chat):
    headers = {"content-type": "Application/JSON; charset=UTF-8"}
    assert gateway.post(CHAT, content=json.dumps(chat), headers=headers).is_success


def test_an_unknown_model_is_a_404(gateway, upstream):
    error = assert_refused(gateway.post(CHAT, json=chat_with(model="gpt-4")), upstream, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_unknown_routes_and_methods_answer_in_the_same_format(gateway, upstream):
    assert assert_refused(gateway.get("/v2/nothing"), upstream, 404)["code"] == "not_found"
    response = gateway.get(CHAT)
    assert assert_refused(response, upstream, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


FIFTY_MB = 50 * 2**20


def test_a_body_of_50_mb_is_a_413(session_upstream):
    session_upstream.reset()
    with gateway_before(session_upstream.url) as client:
        response = client.post(CHAT, content=b"x" * FIFTY_MB, headers={"content-type": "application/json"})
        assert_refused(response, session_upstream, 413)
        chunks = (b"x" * 2**16 for _ in range(FIFTY_MB // 2**16))  # chunked: no content-length
        response = client.post(CHAT, content=chunks, headers={"content-type": "application/json"})
        assert_refused(response, session_upstream, 413)
        assert client.post(CHAT, json=chat_with()).is_success


def test_the_limit_holds_for_a_body_that_comes_with_its_head_whatever_comes_with_it_too(session_upstream):
    def asking(size):
        body = json.dumps(chat_with()).encode().ljust(size)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        return head.encode() + body

    session_upstream.reset()
    with gateway_before(session_upstream.url, body_limit_bytes=1024) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(asking(1024) + asking(1025) + asking(512))
            answers = b""
            while answers.count(b"HTTP/1.1 ") < 3:
                answers += connection.recv(2**16)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"413", b"200"]
    assert len(session_upstream.generated) == 2


def test_a_body_that_never_arrives_is_a_408(session_upstream):
    session_upstream.reset()
    with gateway_before(session_upstream.url, body_timeout_s=0.2) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=10) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{{"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert session_upstream.generated == []


MANY = dict.fromkeys(map(str, range(20_000)), 1)


def test_a_client_that_leaves_during_its_upload_is_no_error_of_ours(gateway, growth):
    address = gateway.base_url.host, gateway.base_url.port
    with socket.create_connection(address, timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{{"
        connection.sendall(head.encode())
    until(lambda: growth("aerie_requests_total", route=CHAT, outcome="cancelled", status="4xx") == 1)


@pytest.mark.parametrize("body", [MANY, chat_with(logit_bias=MANY), chat_with(metadata=MANY), messages(USER | MANY)])
def test_very_many_keys_are_one_cheap_error(gateway, upstream, body):
    error = assert_refused(gateway.post(CHAT, json=body), upstream)
    assert "more than 1024 keys" in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = sorted({name for body, _ in FIELDS + PROMPTS for name in body})
REQUESTS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6)
relaxed = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(path=st.sampled_from([CHAT, TEXT]), body=REQUESTS)
def test_no_json_causes_a_5xx(gateway, upstream, path, body):
    response = gateway.post(path, json={"model": MODEL} | body)
    assert response.status_code < 500, response.text
    assert len(upstream.generated) <= int(response.is_success)
    upstream.generated.clear()


@relaxed
@given(fields=st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1, max_size=2))
def test_a_valid_request_with_odd_fields_is_served_or_refused_whole(gateway, upstream, fields):
    response = gateway.post(CHAT, json=chat_with(**fields))
    assert response.status_code < 500, response.text
    assert len(upstream.generated) == int(response.is_success)
    upstream.generated.clear()


@relaxed
@given(path=st.sampled_from([CHAT, TEXT]), body=st.binary(max_size=64))
def test_no_bytes_cause_a_5xx_or_reach_the_runtime(gateway, upstream, path, body):
    response = gateway.post(path, content=body, headers={"content-type": "application/json"})
    assert_refused(response, upstream)
