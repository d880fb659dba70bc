"""The Responses API on top of chat completions: what is asked and answered, and that OpenAI's own package reads it."""

import json
import typing
from itertools import pairwise

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import responses as sdk
from pydantic import BaseModel

from service.gateway import parse, sglang_events
from service.gateway.errors import GatewayError, InvalidRequest, Overloaded, UpstreamProtocolError
from service.gateway.protocol import ChatCompletionRequest
from service.gateway.responses import chat_document, renamed
from service.gateway.responses_output import response_object
from service.gateway.responses_protocol import ResponsesRequest
from service.gateway.responses_writer import ResponseWriter
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.scripted_upstream import MODEL

ID = "resp-0123456789abcdef0123456789abcdef"
CREATED = 1795326394
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "default": None}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
RETURNED = {"type": "function_call_output", "call_id": "call_1", "output": "7"}
SCHEMA = {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def asked(**fields):
    return {"model": MODEL, "input": "hello", **fields}


def request(**fields):
    return parse.validate(ResponsesRequest, asked(**fields))


def said(text, **fields):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]} | fields


def chat_message(role, content, **fields):
    return {"role": role, "content": content, **fields}


def chat_call(call_id="call_1", name="f", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


HELLO = chat_message("user", "hello")
TEXT_PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
INPUT_PARTS = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
CALLED = {"role": "assistant", "tool_calls": [chat_call()]}
TOLD = {"role": "tool", "tool_call_id": "call_1", "content": "7"}

# what is asked here, and what it adds to or replaces in the chat completion asked for
CONVERSIONS = [
    ({}, {}),
    ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
    ({"temperature": 0, "top_p": 0.5, "stream": True}, {"temperature": 0, "top_p": 0.5, "stream": True}),
    ({"instructions": "Be brief."}, {"messages": [chat_message("system", "Be brief."), HELLO]}),
    ({"user": "me", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"}, {}),
    ({"store": False, "background": False, "truncation": "disabled", "include": [], "service_tier": "auto"}, {}),
    ({"store": None, "previous_response_id": None, "conversation": None, "text": None, "reasoning": None}, {}),
    ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    (
        {"text": {"format": {"type": "json_schema", "strict": True} | SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA | {"strict": True}}},
    ),
    ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ({"return_spec_tokens_details": True}, {"return_spec_tokens_details": True}),
    (
        {"tools": [FUNCTION], "tool_choice": "auto", "parallel_tool_calls": False},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": FUNCTION["parameters"]}}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
    ),
    (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": FUNCTION["parameters"]}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
    ),
    ({"tools": [], "tool_choice": "auto"}, {}),
    ({"input": [{"role": "user", "content": "hello"}]}, {}),
    (
        {"input": [{"role": "developer", "content": "x"}, {"type": "message", "role": "user", "content": INPUT_PARTS}]},
        {"messages": [chat_message("developer", "x"), chat_message("user", TEXT_PARTS)]},
    ),
    (
        {"input": [HELLO, said("yes"), {"role": "user", "content": "more"}]},
        {"messages": [HELLO, chat_message("assistant", "yes"), chat_message("user", "more")]},
    ),
    ({"input": [HELLO, CALL, RETURNED]}, {"messages": [HELLO, CALLED, TOLD]}),
    (
        {"input": [HELLO, CALL, RETURNED | {"output": INPUT_PARTS}]},
        {"messages": [HELLO, CALLED, TOLD | {"content": TEXT_PARTS}]},
    ),
    (  # the calls of one answer are one message, with the text and the reasoning around them
        {"input": [HELLO, THOUGHT, said("I "), CALL, CALL | {"call_id": "call_2"}, said("call"), RETURNED]},
        {
            "messages": [
                HELLO,
                chat_message(
                    "assistant", "I call", reasoning_content="hm", tool_calls=[chat_call(), chat_call("call_2")]
                ),
                TOLD,
            ]
        },
    ),
    (
        {"input": [HELLO, THOUGHT, {"role": "user", "content": "go on"}]},
        {"messages": [HELLO, chat_message("user", "go on")]},
    ),
]


@pytest.mark.parametrize(("fields", "expected"), CONVERSIONS, ids=lambda value: json.dumps(value)[:60])
def test_a_request_becomes_the_chat_completion_that_answers_it(fields, expected):
    document = chat_document(request(**fields))
    assert document == {"model": MODEL, "messages": [HELLO]} | expected
    parse.validate(ChatCompletionRequest, document)


UNSUPPORTED = [
    ({"previous_response_id": "resp_1"}, "previous_response_id", "input"),
    ({"conversation": "conv_1"}, "conversation", "input"),
    ({"conversation": {"id": "conv_1"}}, "conversation", "input"),
    ({"input": [HELLO, {"type": "item_reference", "id": "msg_1"}]}, "input", "earlier items"),
    ({"store": True}, "store", "leave store out"),
    ({"background": True}, "background", "leave background out"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
    ({"truncation": "auto"}, "truncation", "never cut"),
    ({"include": ["reasoning.encrypted_content"]}, "include", "leave include out"),
    ({"top_logprobs": 3}, "top_logprobs", "/v1/chat/completions"),
    ({"max_tool_calls": 3}, "max_tool_calls", "built-in"),
    ({"tools": [FUNCTION, {"type": "web_search"}]}, "tools", "only functions"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "no effect"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "not summarised"),
]


@pytest.mark.parametrize(("fields", "param", "advice"), UNSUPPORTED, ids=lambda value: json.dumps(value)[:60])
def test_what_is_not_served_is_refused_with_the_reason(fields, param, advice):
    with pytest.raises(InvalidRequest) as refused:
        request(**fields)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_feature")
    assert refused.value.message.startswith(f"{param}: ")
    assert advice in refused.value.message


WRONG = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["hello"]}, "input.0"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input.0"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input.0.role"),
    ({"input": [{"role": "user", "content": "x", "mood": "good"}]}, "input.0.mood"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.type"),
    ({"input": [CALL | {"arguments": {}}]}, "input.0.arguments"),
    ({"input": [HELLO, RETURNED]}, "input"),
    ({"input": [HELLO, RETURNED, CALL]}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": "1"}, "top_p"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"tools": [{"name": "f"}]}, "tools.0.type"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.0.name"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"metadata": dict.fromkeys("abcdefghijklmnopq", "x")}, "metadata"),
    ({"messages": [HELLO]}, "messages"),
    ({"max_tokens": 3}, "max_tokens"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_a_bad_request_names_its_field(fields, param):
    with pytest.raises(InvalidRequest) as refused:
        request(**fields)
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


def test_a_chats_rules_are_told_in_this_apis_words():
    document = chat_document(request(input=[THOUGHT]))
    with pytest.raises(InvalidRequest) as refused:
        parse.validate(ChatCompletionRequest, document)
    error = renamed(refused.value)
    assert error.param == "input"
    assert error.message.startswith("input: ")
    late = renamed(Overloaded("full", retry_after_s=1))
    assert (type(late), late.message, late.param, late.retry_after_s) == (Overloaded, "full", None, 1)


# The answer.

EXTENSIONS = {sdk.Response: {"store", "sglext"}, sdk.ResponseErrorEvent: {"error"}}
EVENT_TYPES = {
    typing.get_args(model.model_fields["type"].annotation)[0]: model
    for model in typing.get_args(typing.get_args(sdk.ResponseStreamEvent)[0])
}


def as_sdk(model, document):
    """The document as the SDK's model, strictly: all that is required is there, and nothing it does not know."""
    instance = model.model_validate(document, strict=True)
    assert unknown_fields(instance) == []
    return instance


def unknown_fields(value):
    if isinstance(value, BaseModel):
        extra = set(value.model_extra or ()) - EXTENSIONS.get(type(value), set())
        return [(type(value), name) for name in extra] + unknown_fields(list(dict(value).values()))
    return [found for item in value for found in unknown_fields(item)] if isinstance(value, list) else []


def answer(message, finish_reason="stop", **fields):
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "reasoning_content": None} | message}
    choice |= {"logprobs": None, "finish_reason": finish_reason, "matched_stop": None}
    return wire.head("chatcmpl-1", "chat.completion") | {"choices": [choice], "usage": wire.USAGE} | fields


def whole(message, finish_reason="stop", asking=None, **fields):
    document = response_object(answer(message, finish_reason, **fields), asking or request(), ID)
    return as_sdk(sdk.Response, document)


def test_an_answer_is_a_completed_response_with_its_usage():
    response = whole({"content": "Red and blue"})
    assert (response.id, response.created_at, response.status, response.model) == (ID, CREATED, "completed", MODEL)
    assert response.output_text == "Red and blue"
    [item] = response.output
    assert (item.id, item.status) == ("msg-0123456789abcdef0123456789abcdef_0", "completed")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (34, 11, 45)
    assert (response.error, response.incomplete_details) == (None, None)


def test_cached_and_reasoning_tokens_are_told():
    usage = wire.USAGE | {"prompt_tokens_details": {"cached_tokens": 9}, "reasoning_tokens": 4}
    told = whole({"content": "x"}, usage=usage).usage
    assert (told.input_tokens_details.cached_tokens, told.output_tokens_details.reasoning_tokens) == (9, 4)


def test_the_requests_settings_are_echoed_and_nothing_is_stored():
    text = {"format": {"type": "json_schema"} | SCHEMA}
    asking = request(tools=[FUNCTION], text=text, metadata={"a": "b"}, temperature=0.5, reasoning={"effort": "low"})
    response = whole({"content": "{}"}, asking=asking)
    assert response.tools[0].parameters == FUNCTION["parameters"]
    assert response.text.format.schema_ == SCHEMA["schema"]
    assert (response.metadata, response.temperature, response.reasoning.effort) == ({"a": "b"}, 0.5, "low")
    assert (response.tool_choice, response.parallel_tool_calls) == ("auto", True)
    assert response.model_extra == {"store": False}


def test_reasoning_text_and_calls_become_items_in_this_order():
    calls = [chat_call("call_1", "f", '{"a": 1}') | {"index": 0}, chat_call("call_2") | {"index": 1}]
    response = whole({"content": "I call", "reasoning_content": "hm", "tool_calls": calls}, "tool_calls")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].content[0].text == "hm"
    assert (response.output[2].call_id, response.output[2].arguments) == ("call_1", '{"a": 1}')
    assert len({item.id for item in response.output}) == 4


@pytest.mark.parametrize(
    ("finish_reason", "status", "reason"),
    [("length", "incomplete", "max_output_tokens"), ("content_filter", "incomplete", "content_filter")],
)
def test_an_answer_that_was_cut_is_incomplete(finish_reason, status, reason):
    response = whole({"content": "Red a"}, finish_reason)
    assert (response.status, response.incomplete_details.reason) == (status, reason)
    assert response.output[-1].status == "incomplete"


def test_an_aborted_answer_is_a_failed_response():
    response = whole({"content": "Red a"}, "abort")
    assert (response.status, response.error.code) == ("failed", "server_error")


def test_an_answer_without_a_word_is_an_empty_message():
    response = whole({"content": ""})
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == ""


def test_acceptance_figures_are_passed_on_only_when_asked_for():
    figures = {"spec_tokens_details": wire.DETAILS}
    assert whole({"content": "x"}, sglext=figures).model_extra == {"store": False}
    asking = request(return_spec_tokens_details=True)
    assert whole({"content": "x"}, sglext=figures, asking=asking).model_extra["sglext"] == figures


BROKEN = [
    {},
    {"choices": None},
    {"choices": [{}]},
    {"choices": [{"message": None}]},
    answer({"content": ["x"]}),
    answer({"content": "x"}, finish_reason=["stop"]),
    answer({"content": "x"}, usage={"tokens": 3}),
    answer({"tool_calls": [{"index": 0, "function": {"name": None, "arguments": "{"}}]}),
]


@pytest.mark.parametrize("document", BROKEN, ids=lambda value: json.dumps(value)[-60:])
def test_what_is_no_chat_completion_is_an_upstream_protocol_error(document):
    with pytest.raises(UpstreamProtocolError):
        response_object(document, request(), ID)


# The stream.


def chunk(finish_reason=None, **delta):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "matched_stop": None}
    return wire.head("chatcmpl-1", "chat.completion.chunk") | {"choices": [choice]}


def call_chunk(index, arguments, *, call_id=None, name=None):
    call = {"id": call_id, "index": index, "type": "function", "function": {"name": name, "arguments": arguments}}
    return chunk(role=None, content=None, reasoning_content=None, tool_calls=[call])


def recorded(texts=("Red", " and", " blue")):
    """A stream on SGLang's wire: role, texts, finish, acceptance figures, usage."""
    return [sglang_events.event_document(event) for event in wire.stream_of("chatcmpl-1", texts)[:-1]]


def written(chunks, end=ResponseWriter.done, asking=None):
    """The events of a stream as (type, document), each of them checked by the SDK's own types."""
    writer = ResponseWriter(asking or request(stream=True), ID, CREATED)
    events = read_events(b"".join([*map(writer.feed, chunks), end(writer)]))
    for kind, document in events:
        as_sdk(EVENT_TYPES[kind], document)
    assert [document["sequence_number"] for _, document in events] == list(range(len(events)))
    return events


def read_events(stream):
    assert stream.endswith(b"\n\n")
    events = []
    for event in stream.decode().removesuffix("\n\n").split("\n\n"):
        head, data = event.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert head == f"event: {document['type']}"
        events.append((document["type"], document))
    return events


def brief(events):
    """Types without their prefix, and what is particular to an event."""
    keys = ("output_index", "delta", "text", "arguments")
    return [
        (kind.removeprefix("response."), *(document[key] for key in keys if key in document))
        for kind, document in events
    ]


START = [("created",), ("in_progress",)]


def test_a_text_is_streamed_as_openai_streams_it():
    events = written(recorded())
    assert brief(events) == [
        *START,
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("output_text.delta", 0, "Red"),
        ("output_text.delta", 0, " and"),
        ("output_text.delta", 0, " blue"),
        ("output_text.done", 0, "Red and blue"),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("completed",),
    ]
    assert events[0][1]["response"]["status"] == "in_progress"
    assert events[0][1]["response"]["output"] == events[2][1]["item"]["content"] == []
    assert events[3][1]["part"]["text"] == ""
    assert events[-1][1]["response"]["usage"]["output_tokens"] == 11
    assert "sglext" not in events[-1][1]["response"]


def test_a_streams_figures_are_in_its_last_event_when_asked_for():
    events = written(recorded(), asking=request(stream=True, return_spec_tokens_details=True))
    assert events[-1][1]["response"]["sglext"]["spec_tokens_details"]["spec_verify_ct"] == 6


def test_reasoning_and_calls_are_streamed_as_items_of_their_own():
    chunks = [
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(content="I call"),
        call_chunk(0, "", call_id="call_1", name="f"),
        call_chunk(0, '{"a":'),
        call_chunk(1, "{}", call_id="call_2", name="g"),
        call_chunk(0, " 1}"),
        chunk("tool_calls"),
    ]
    events = written(chunks)
    assert brief(events) == [
        *START,
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0, "hm"),
        ("reasoning_text.done", 0, "hm"),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1, "I call"),
        ("output_text.done", 1, "I call"),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2, '{"a":'),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3, "{}"),
        ("function_call_arguments.delta", 2, " 1}"),
        ("function_call_arguments.done", 2, '{"a": 1}'),
        ("output_item.done", 2),
        ("function_call_arguments.done", 3, "{}"),
        ("output_item.done", 3),
        ("completed",),
    ]
    added = [document["item"] for kind, document in events if kind.endswith("item.added")]
    assert [item["arguments"] for item in added[2:]] == ["", ""]


def test_a_stream_that_was_cut_ends_incomplete():
    *_, (_, item_done), (kind, last) = written([chunk(content="Red a"), chunk("length")])
    assert kind == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert item_done["item"]["status"] == "incomplete"


def test_a_stream_without_a_word_has_an_empty_message():
    for chunks in ([], [chunk(role="assistant", content=""), chunk("stop")]):
        events = written(chunks)
        assert [kind for kind, *_ in brief(events)[2:4]] == ["output_item.added", "content_part.added"]
        assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == ""


def test_an_aborted_stream_fails():
    assert brief(written([chunk(content="Red"), chunk("abort")]))[-1] == ("failed",)


def broken(writer):
    return writer.fail(UpstreamProtocolError("The runtime closed the connection."))


def test_a_stream_that_breaks_fails_and_says_why_last():
    events = written([chunk(content="Red")], end=broken)
    assert brief(events)[-2:] == [("failed",), ("error",)]
    failed, error = events[-2][1]["response"], events[-1][1]
    assert failed["output"][0]["content"][0]["text"] == "Red"
    assert (failed["output"][0]["status"], failed["error"]["code"]) == ("incomplete", "server_error")
    assert (error["code"], error["message"]) == ("upstream_protocol_error", failed["error"]["message"])
    assert error["error"]["type"] == "server_error"
    assert brief(written([], end=broken)) == [*START, ("failed",), ("error",)]


@pytest.mark.parametrize(
    "document", [{}, chunk(content=["x"]), call_chunk(0, "{}"), {"choices": [], "usage": {"a": 1}}]
)
def test_a_chunk_that_is_none_is_an_upstream_protocol_error_and_the_stream_can_still_fail(document):
    writer = ResponseWriter(request(stream=True), ID, CREATED)
    start = writer.feed(chunk(content="Red"))
    with pytest.raises(UpstreamProtocolError):
        writer.feed(document)
    events = read_events(start + broken(writer))
    assert all(
        later["sequence_number"] == earlier["sequence_number"] + 1 for (_, earlier), (_, later) in pairwise(events)
    )


@settings(deadline=None)
@given(texts=st.lists(st.text()))
def test_however_a_text_is_split_the_response_is_that_of_the_whole(texts):
    events = written([*(chunk(content=text) for text in texts), chunk("stop"), {"choices": [], "usage": wire.USAGE}])
    deltas = [document["delta"] for kind, document in events if kind.endswith(".delta")]
    assert "".join(deltas) == "".join(texts)
    assert events[-1][1]["response"] == response_object(answer({"content": "".join(texts)}), request(stream=True), ID)


SAID = st.text(max_size=3)
CALLS = st.tuples(st.integers(0, 2), SAID)
PIECES = st.lists(
    st.tuples(st.sampled_from(["content", "reasoning_content"]), SAID) | st.tuples(st.just("call"), CALLS)
)


@settings(deadline=None)
@given(pieces=PIECES)
def test_the_last_event_repeats_what_the_events_before_told(pieces):
    chunks, calls = [], {}
    for kind, piece in pieces:
        if kind != "call":
            chunks.append(chunk(**{kind: piece}))
            continue
        index, arguments = piece
        new = index not in calls
        chunks.append(call_chunk(index, arguments, call_id=f"call_{index}" if new else None, name="f" if new else None))
        calls[index] = calls.get(index, "") + arguments
    events = [document for _, document in written(chunks)]
    output = events[-1]["response"]["output"]
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert [done[index] for index in range(len(output))] == output
    for index, item in enumerate(output):
        told = "".join(e["delta"] for e in events if e.get("output_index") == index and e["type"].endswith(".delta"))
        assert told == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
    assert {item["call_id"]: item["arguments"] for item in output if item["type"] == "function_call"} == {
        f"call_{index}": arguments for index, arguments in calls.items()
    }
    spoken = "".join(item["content"][0]["text"] for item in output if item["type"] == "message")
    assert spoken == "".join(piece for kind, piece in pieces if kind == "content")


# Any request.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
VALID = [asked(**fields) for fields, _ in CONVERSIONS]
NAMES = sorted({name for fields, *_ in [*CONVERSIONS, *UNSUPPORTED, *WRONG] for name in fields})


@st.composite
def altered(draw):
    """A valid request with one value in it replaced, removed or added."""
    document = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(node[key], dict | list) or draw(st.booleans()):
            break
        node = node[key]
    if isinstance(node, dict):
        node[key if key is not None and draw(st.booleans()) else draw(st.text(max_size=4))] = draw(JSON)
    elif key is not None and draw(st.booleans()):
        del node[key]
    else:
        node.append(draw(JSON))
    return document


def answerable(document):
    """Parse as the gateway does; a request that passes can be sent, and told of in every event."""
    try:
        wanted = parse.validate(ResponsesRequest, parse.parse_object(json.dumps(document).encode()))
        chat = chat_document(wanted)
        parse.validate(ChatCompletionRequest, chat)
        parse.for_upstream(chat, {})
    except InvalidRequest:
        return
    written(recorded(), asking=wanted)


@settings(deadline=None)
@given(document=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6).map(lambda fields: asked(**fields)))
def test_any_json_object_is_a_chat_completion_or_one_error(document):
    answerable(document)


@settings(deadline=None, max_examples=300)
@given(document=altered())
def test_a_valid_request_with_one_odd_value_is_a_chat_completion_or_one_error(document):
    answerable(document)


@pytest.mark.parametrize("depth", range(230, 260))
def test_a_schema_is_refused_before_it_is_too_deep_to_be_repeated(depth):
    schema = {}
    for _ in range(depth):
        schema = {"a": schema}
    answerable(asked(tools=[FUNCTION | {"parameters": schema}]))
    answerable(asked(text={"format": {"type": "json_schema"} | SCHEMA | {"schema": schema}}))


# OpenAI's own package against a server that speaks through the writer.


class Server:
    """Answers every request with the same chat completion."""

    def __init__(self):
        self.chunks, self.message, self.error, self.chats = recorded(), {"content": "Red and blue"}, None, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        try:
            wanted = parse.validate(ResponsesRequest, parse.parse_object(await wire.read_body(receive)))
            self.chats.append(chat_document(wanted))
            parse.validate(ChatCompletionRequest, self.chats[-1])
        except GatewayError as error:
            await wire.respond(send, error.status, renamed(error).body)
            return
        writer = ResponseWriter(wanted, ID, CREATED)
        if not wanted.stream:
            await wire.respond(send, 200, json.dumps(writer.whole(answer(self.message))).encode())
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.chunks:
            await send({"type": "http.response.body", "body": writer.feed(piece), "more_body": True})
        last = writer.fail(self.error) if self.error else writer.done()
        await send({"type": "http.response.body", "body": last})


@pytest.fixture(scope="module")
def served():
    server = Server()
    with wire.served(server) as url, openai.OpenAI(base_url=url, api_key="sk-secret", max_retries=0) as client:
        yield server, client


@pytest.fixture
def server(served):
    served[0].__init__()
    return served[0]


@pytest.fixture
def client(served, server):
    return served[1]


class Colours(BaseModel):
    first: str
    second: str


def test_the_sdk_reads_an_answer_and_can_send_it_back(client, server):
    calls = [chat_call() | {"index": 0}]
    server.message = {"content": "I call", "reasoning_content": "hm", "tool_calls": calls}
    response = client.responses.create(model=MODEL, input="hello", instructions="Be brief.", max_output_tokens=20)
    assert response.output_text == "I call"
    client.responses.create(model=MODEL, input=[HELLO, *response.output, RETURNED])
    turn = chat_message("assistant", "I call", reasoning_content="hm", tool_calls=[chat_call()])
    assert server.chats[-1]["messages"] == [HELLO, turn, TOLD]


def test_the_sdk_parses_a_structured_answer_and_can_send_it_back(client, server):
    server.message = {"content": '{"first": "red", "second": "blue"}'}
    response = client.responses.parse(model=MODEL, input="hello", text_format=Colours)
    assert response.output_parsed == Colours(first="red", second="blue")
    assert server.chats[-1]["response_format"]["json_schema"]["strict"] is True
    client.responses.create(model=MODEL, input=[HELLO, *response.output])
    assert server.chats[-1]["messages"][1] == chat_message("assistant", server.message["content"])


def test_the_sdk_assembles_a_streamed_text(client, server):
    with client.responses.stream(model=MODEL, input="hello") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        assert snapshots == ["Red", "Red and", "Red and blue"]
        assert stream.get_final_response().usage.total_tokens == 45


def test_the_sdk_assembles_a_streamed_call(client, server):
    server.chunks = [
        chunk(content="I call"),
        call_chunk(0, "", call_id="call_1", name="f"),
        call_chunk(0, '{"a":'),
        call_chunk(0, " 1}"),
        chunk("tool_calls"),
    ]
    with client.responses.stream(model=MODEL, input="hello", tools=[FUNCTION | {"strict": False}]) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.function_call_arguments.delta"]
        assert snapshots == ['{"a":', '{"a": 1}']
        assert [item.type for item in stream.get_final_response().output] == ["message", "function_call"]


def test_the_sdk_sees_a_cut_stream_end_incomplete(client, server):
    server.chunks = [chunk(content="Red a"), chunk("length")]
    *_, last = client.responses.create(model=MODEL, input="hello", stream=True)
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


def test_the_sdk_raises_when_a_stream_breaks_after_it_has_seen_the_failed_response(client, server):
    server.chunks, server.error = [chunk(content="Red")], UpstreamProtocolError("The runtime closed the connection.")
    seen = []
    # Closed here: collected as garbage while the connection pool is locked, a broken stream would wait for that lock.
    with (
        client.responses.create(model=MODEL, input="hello", stream=True) as stream,
        pytest.raises(openai.APIError, match="closed the connection") as raised,
    ):
        seen.extend(event.type for event in stream)
    assert raised.value.code == "upstream_protocol_error"
    assert seen[-1] == "response.failed"


def test_the_sdk_gets_a_400_for_what_needs_a_memory(client, server):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="hello", previous_response_id="resp_1")
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "unsupported_feature")
    assert "keeps no conversations" in refused.value.message
