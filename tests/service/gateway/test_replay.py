"""Which requests are asked again, how, and what is read from SGLang's answers (as recorded from 0.5.23)."""

import json

import pytest

from service.gateway.compare import Answer, Choice
from service.gateway.replay import Incomparable, Told, replay_body, told_by_baseline, told_to_client
from tests.service.gateway import scripted_upstream as wire

RID = "canary-0"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "rid": "chatcmpl-1"}
TEXT = {"model": "m", "prompt": "Hi", "temperature": 0.0, "rid": "cmpl-1"}


def replayed(document, tokens=10):
    body = replay_body(json.dumps(document).encode(), RID, tokens)
    return None if body is None else json.loads(body)


def test_a_chat_is_asked_again_whole_with_logprobs_and_an_id_of_its_own():
    streamed = {"stream": True, "stream_options": {"include_usage": True}, "return_spec_tokens_details": True}
    assert replayed(CHAT | streamed | {"max_completion_tokens": 12, "stop": ["x"], "top_p": 0.9}) == {
        "model": "m",
        "messages": CHAT["messages"],
        "temperature": 0,
        "rid": RID,
        "max_tokens": 12,
        "stop": ["x"],
        "top_p": 0.9,
        "logprobs": True,
        "top_logprobs": 5,
    }


def test_a_completion_is_asked_again_in_its_own_words():
    wanted = {"model": "m", "prompt": "Hi", "temperature": 0.0, "rid": RID, "max_tokens": 18, "logprobs": 5}
    assert replayed(TEXT) == wanted


def test_a_replay_is_hardly_longer_than_the_answer_was():
    assert replayed(CHAT | {"max_tokens": 4000}, tokens=10)["max_tokens"] == 18


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"regex": "a"},
        {"logprobs": True},
        {"frequency_penalty": 0.1},
        {"logit_bias": {"1": 1}},
        {"min_tokens": 5},
        {"ignore_eos": True},
        {"stop_token_ids": [5]},
        {"no_stop_trim": True},
        {"skip_special_tokens": False},
        {"something_new": 1},
    ],
)
def test_whatever_could_change_what_greedy_means_is_not_asked_again(fields):
    assert replayed(CHAT | fields) is None


def test_greedy_is_what_says_so_itself():
    assert replayed({key: value for key, value in CHAT.items() if key != "temperature"}) is None


def test_fields_that_ask_for_nothing_do_not_matter():
    assert replayed(CHAT | {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False}) is not None


def test_a_stream_says_what_a_whole_answer_says():
    assert told_to_client(_stream(), stream=True) == Told("Red and blue", 2)
    assert told_to_client(wire.whole("r"), stream=False) == Told("Red and blue", 2)
    assert told_to_client(wire.whole_text("r"), stream=False) == Told(" red", 2)


def _stream():
    last = json.loads(wire.chunk("r", None, finish_reason="stop").removeprefix(b"data: "))
    last["choices"][0]["matched_stop"] = 2
    return b"".join(
        [
            *(wire.chunk("r", text) for text in ("", "Red", " and", " blue")),
            wire.event(last),
            wire.summary("r", usage=wire.USAGE),
            wire.DONE,
        ]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"finish_reason": "tool_calls"},
        {"finish_reason": "stop", "matched_stop": None},
        {"finish_reason": None},
        {"finish_reason": "stop", "message": {"content": "x", "reasoning_content": "because"}},
    ],
)
def test_an_answer_that_is_not_one_plain_text_is_not_compared(fields):
    document = json.loads(wire.whole("r"))
    document["choices"][0] |= fields
    with pytest.raises(Incomparable):
        told_to_client(json.dumps(document).encode(), stream=False)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"choices": []}', b"not JSON", b"\xff"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_no_answer_is_not_compared(data, stream):
    with pytest.raises(Incomparable):
        told_to_client(data, stream=stream)


@pytest.mark.parametrize("fields", [{"logprobs": None}, {"logprobs": {}}, {"logprobs": {"content": [{"token": "a"}]}}])
def test_a_baseline_without_logprobs_decides_nothing(fields):
    document = json.loads(wire.whole("r"))
    document["choices"][0] |= fields
    with pytest.raises(Incomparable):
        told_by_baseline(document)


def test_a_chats_tokens_are_their_bytes():
    """As recorded: a party popper is three tokens, none of which is a text."""
    pieces = [([240, 159], -0.5), ([142], -0.1), ([137], 0.0)]
    content = [
        {"token": "\ufffd", "bytes": data, "logprob": logprob, "top_logprobs": [{"bytes": [32], "logprob": -9.0}]}
        for data, logprob in pieces
    ]
    document = json.loads(wire.whole("r"))
    document["choices"][0]["logprobs"] = {"content": content}
    told, tokens = told_by_baseline(document)
    assert told == Told("Red and blue", 2)
    assert b"".join(token.chosen.spellings[0] for token in tokens).decode() == "\U0001f389"
    assert tokens[0].alternatives == (Choice((b" ",), -9.0),)


def test_a_completions_tokens_are_texts_or_bytes_written_as_latin_1():
    """As recorded: the same three tokens are `ð\\x9f`, `\\x8e`, `\\x89` here."""
    logprobs = {"tokens": ["\xf0\x9f", "\x8e", "\x89", "本"], "token_logprobs": [-0.5, -0.1, 0.0, -1.0]}
    logprobs |= {"top_logprobs": [{"\xf0\x9f": -0.5, "\n": -3.0}] * 4, "text_offset": [-1] * 4}
    document = json.loads(wire.whole_text("r"))
    document["choices"][0]["logprobs"] = logprobs
    _, tokens = told_by_baseline(document)
    assert b"".join(token.chosen.spellings[-1] for token in tokens).decode() == "\U0001f389本"
    assert [len(token.chosen.spellings) for token in tokens] == [2, 2, 2, 1]
    assert tokens[0].alternatives[1] == Choice((b"\n",), -3.0)


def test_what_ended_an_answer_is_a_part_of_what_was_generated():
    assert Told("Hi", 2).answer({2: "<end>"}) == Answer("Hi", "<end>", cut=False)
    assert Told("Hi", ", ").answer({}) == Answer("Hi", ", ", cut=False)
    assert Told("Hi", None).answer({}) == Answer("Hi", "", cut=True)
