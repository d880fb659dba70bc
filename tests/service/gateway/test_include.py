"""`usage.speculation`: only for who asks, in every form of answer, and null where nothing is known."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.errors import InvalidRequest
from service.gateway.include import INCLUDE_HEADER, SPECULATION, speculation_block, wants_speculation
from service.gateway.record import Speculation
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import events
from tests.service.gateway.scripted_upstream import MODEL, USAGE, Script

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ASKING = {"x-aerie-include": "speculation"}
BLOCK = {
    "acceptance_length": 1 + 4 / 6,
    "verify_passes": 6,
    "proposed_drafts": 42,
    "accepted_drafts": 4,
    "accepted_by_position": [3, 1],
}


def last_usage(response):
    return [document["usage"] for event in events(response)[:-1] if (document := json.loads(event)).get("usage")]


def test_a_whole_answer_has_the_block_and_nothing_else_changes(gateway, chat):
    plain, asked = gateway.post(CHAT, json=chat).json(), gateway.post(CHAT, json=chat, headers=ASKING).json()
    assert plain["usage"] == USAGE
    assert asked["usage"] == USAGE | {"speculation": BLOCK}
    assert asked | {"usage": None, "id": None} == plain | {"usage": None, "id": None}


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
def test_a_stream_ends_with_the_block_and_every_other_event_is_the_runtimes_own(gateway, upstream, chat, options):
    upstream.script = Script(steps=wire.stream_of("a"))
    body = chat | {"stream": True, "stream_options": options}
    response = gateway.post(CHAT, json=body, headers=ASKING)
    *chunks, _, usage, done = wire.stream_of("a")
    assert response.content.startswith(b"".join(chunks))
    assert response.content.endswith(done)
    assert [json.loads(event) for event in events(response)[-2:-1]] == [
        json.loads(usage.removeprefix(b"data: ")) | {"usage": USAGE | {"speculation": BLOCK}}
    ]


def test_it_shows_beside_sglangs_own_figures(gateway, chat):
    body = chat | {"stream": True, "return_spec_tokens_details": True}
    documents = [json.loads(event) for event in events(gateway.post(CHAT, json=body, headers=ASKING))[:-1]]
    assert "sglext" in documents[-2]
    assert documents[-1]["usage"]["speculation"] == BLOCK


@pytest.mark.parametrize("stream", [False, True])
def test_without_speculation_it_is_null(gateway, upstream, chat, stream):
    whole = json.loads(wire.whole("a"))
    del whole["sglext"]
    steps = [event for event in wire.stream_of("a") if b"sglext" not in event]
    upstream.script = Script(steps=steps) if stream else Script(body=json.dumps(whole).encode())
    response = gateway.post(CHAT, json=chat | {"stream": stream}, headers=ASKING)
    usage = last_usage(response) if stream else [response.json()["usage"]]
    assert usage == [USAGE | {"speculation": None}]


def test_of_several_choices_it_is_the_sum(gateway, upstream, chat):
    upstream.script = Script(body=wire.whole("a", details=[wire.DETAILS, wire.DETAILS], n=2))
    block = gateway.post(CHAT, json=chat | {"n": 2}, headers=ASKING).json()["usage"]["speculation"]
    assert (block["verify_passes"], block["accepted_by_position"]) == (12, [6, 2])


@pytest.mark.parametrize(
    ("passes_of_size", "proposed"), [([0, 1, 0, 2, 0, 0, 0, 0, 3], 25), ([0, 1, 0, 2], 4 + 3 * 7), ([], 42)]
)
def test_drafts_of_passes_that_verified_less_than_a_whole_tree_are_counted(
    gateway, upstream, chat, passes_of_size, proposed
):
    """Trees have 8 nodes at most, of which the root is no draft."""
    upstream.script = Script(body=wire.whole("a", details=wire.DETAILS | {"spec_cap_lens_histogram": passes_of_size}))
    block = gateway.post(CHAT, json=chat, headers=ASKING).json()["usage"]["speculation"]
    assert block["proposed_drafts"] == proposed


@pytest.mark.parametrize(("prompt", "block"), [("a", BLOCK), (["a"], BLOCK), (["a", "b"], None)])
def test_of_several_prompts_it_is_null_since_the_runtime_tells_of_the_first_only(gateway, prompt, block):
    body = {"model": MODEL, "prompt": prompt}
    assert gateway.post(TEXT, json=body, headers=ASKING).json()["usage"]["speculation"] == block


def test_events_under_ids_of_sglangs_own_keep_ours(gateway, upstream, chat):
    upstream.script = Script(steps=wire.stream_of("a", details=[wire.DETAILS, wire.DETAILS]))
    response = gateway.post(CHAT, json=chat | {"n": 2, "stream": True}, headers=ASKING)
    ids = {json.loads(event)["id"] for event in events(response)[:-1]}
    assert ids == {upstream.generated[0]["rid"]}


@pytest.mark.parametrize("stream", [False, True])
def test_responses_have_it_too(gateway, stream):
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="any", max_retries=0) as client:
        asked = {"model": MODEL, "input": "Name two colours."}
        for headers, extra in [(ASKING, {"speculation": BLOCK}), ({}, {})]:
            if stream:
                with client.responses.stream(**asked, extra_headers=headers) as events_of:
                    answer = events_of.get_final_response()
            else:
                answer = client.responses.create(**asked, extra_headers=headers)
            assert (answer.usage.model_extra or {}) == extra


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES])
@pytest.mark.parametrize("value", ["", "everything", "speculation,prompts"])
def test_what_there_is_not_cannot_be_asked_for(gateway, upstream, chat, path, value):
    body = {CHAT: chat, TEXT: {"model": MODEL, "prompt": "a"}, RESPONSES: {"model": MODEL, "input": "a"}}[path]
    answer = gateway.post(path, json=body, headers={"x-aerie-include": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-aerie-include")
    assert upstream.generated == []


@given(st.text() | st.just(SPECULATION))
def test_a_header_asks_for_speculation_or_is_refused(value):
    if value.strip() == SPECULATION:
        assert wants_speculation(value)
    else:
        with pytest.raises(InvalidRequest, match=INCLUDE_HEADER):
            wants_speculation(value)


@given(st.lists(st.integers(0, 1000), max_size=8))
def test_the_figures_agree_with_one_another(histogram):
    passes, drafts = sum(histogram), sum(position * many for position, many in enumerate(histogram))
    block = speculation_block(Speculation(passes, drafts, 3 * passes, tuple(histogram)))
    assert sum(block["accepted_by_position"]) == block["accepted_drafts"]
    assert block["accepted_by_position"] == sorted(block["accepted_by_position"], reverse=True)
    assert (block["acceptance_length"] is None) == (passes == 0)
