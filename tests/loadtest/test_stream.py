"""What a stream says of tokens: counted by usage, placed where they arrived."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.record import Acceptance, Request
from loadtest.stream import ErrorEvent, Garbage, StreamReader
from tests.loadtest.scripted_runtime import DONE, chunk, event, stream_of, usage

DETAILS = {"spec_num_correct_drafts": 4, "spec_num_proposed_drafts": 42, "spec_verify_ct": 6}


def read(pieces):
    """Each piece arrives a second after the one before, the first at 1."""
    reader = StreamReader()
    for at_s, piece in enumerate(pieces, 1):
        reader.feed(piece, float(at_s))
    return reader.answer()


def steps(answer):
    return [(arrival.at_s, arrival.tokens) for arrival in answer.arrivals]


def test_tokens_arrive_with_the_chunks_that_usage_says():
    answer = read(stream_of([1, 4, 6]))
    assert steps(answer) == [(2.0, 1), (3.0, 4), (4.0, 6)]
    assert (answer.prompt_tokens, answer.completion_tokens) == (34, 6)


def test_text_is_kept_only_where_it_is_asked_for():
    assert read(stream_of([1, 2])).text is None
    reader = StreamReader(keep_text=True)
    for piece in [chunk(""), chunk("Red "), chunk("and blue"), *stream_of([1])[-3:]]:
        reader.feed(piece, 1.0)
    assert reader.answer().text == "Red and blue"


@pytest.mark.parametrize(("told", "tokens"), [(True, 6), (False, 3)])
def test_on_the_way_tokens_are_those_of_usage_or_else_chunks(told, tokens):
    reader = StreamReader()
    assert reader.tokens == 0
    for piece in stream_of([1, 4, 6], told=told)[:4]:
        reader.feed(piece, 1.0)
    assert reader.tokens == tokens


def test_a_last_token_without_text_arrives_with_the_end():
    assert steps(read(stream_of([1, 2], total=3))) == [(2.0, 1), (3.0, 2), (4.0, 3)]


def test_chunks_share_the_tokens_where_usage_comes_only_at_the_end():
    assert steps(read(stream_of([0, 0, 0], total=6, told=False))) == [(2.0, 2), (3.0, 4), (4.0, 6)]


def test_counts_that_contradict_the_total_are_not_believed():
    assert steps(read(stream_of([5, 9], total=4))) == [(2.0, 2), (3.0, 4)]


def test_an_answer_may_have_no_tokens():
    assert read([chunk(None, finish_reason="stop"), event(choices=[], usage=usage(0)), DONE]).arrivals == ()


def test_acceptance_is_read_in_the_words_of_sglang_and_of_the_gateway():
    told = {"acceptance_length": 1.667, "verify_passes": 6, "proposed_drafts": 42, "accepted_drafts": 4}
    assert read(stream_of([1, 2], details=DETAILS)).acceptance == Acceptance(4, 6)
    assert read(stream_of([1, 2], speculation=told)).acceptance == Acceptance(4, 6)
    assert read(stream_of([1, 2])).acceptance is None
    assert Acceptance(4, 6).length == pytest.approx(10 / 6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.lists(st.integers(0, 4000), max_size=12))
def test_where_packets_are_cut_changes_nothing(gains, cuts):
    counts = [sum(gains[: index + 1]) for index in range(len(gains))]
    whole = b"".join(stream_of(counts, details=DETAILS))
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    reader = StreamReader()
    for start, end in pairwise(edges):
        reader.feed(whole[start:end], 1.0)
    answer = reader.answer()
    assert [tokens for _, tokens in steps(answer)] == counts
    assert answer.acceptance == Acceptance(4, 6)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"<html>busy</html>\n"],
        [b"data: {not json}\n\n"],
        [b"data: [1, 2]\n\n"],
        [b'data: {"object": "list"}\n\n'],
        [b'data: {"choices": [3]}\n\n'],
        [event(choices=[], usage={"completion_tokens": "many"})],
        [event(choices=[], usage=usage(5)), DONE],
        [chunk("a"), event(choices=[], usage=usage(0)), DONE],
        [b'data: {"choices": [], "usage": {"completion_tokens": 1e999}}\n\n'],
        [event(choices=[], usage=usage(-1))],
        [event(choices=[], sglext={"spec_tokens_details": {"passes": 3}})],
        [b"x" * 2**20, b"x" * 2],
        [chunk("a"), event(choices=[], usage=usage(1))],
        [chunk("a"), DONE],
        [event(choices=[], usage={"completion_tokens": 3}), DONE],
    ],
)
def test_garbage_is_told_from_a_completion(pieces):
    with pytest.raises(Garbage):
        read(pieces)


def test_an_error_event_keeps_its_words():
    with pytest.raises(ErrorEvent, match=r"^out of memory$"):
        read([chunk("a"), b'data: {"error": {"message": "out of\\nmemory", "code": 500}}\n\n'])


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_no_bytes_make_it_fail_in_another_way(pieces):
    try:
        read(pieces)
    except (Garbage, ErrorEvent):
        return


def test_an_error_that_is_null_is_none():
    answer = read([event(choices=[{"index": 0, "delta": {"content": "a"}}], error=None), *stream_of([1])[-2:]])
    assert answer.completion_tokens == 1


def test_two_chunks_of_one_token_have_no_pace():
    answer = read([chunk("h", tokens=1), chunk("a", tokens=1), *stream_of([1])[-2:]])
    assert Request(0.0, 9.0, answer).tpot_s is None


def test_alphas_end_with_the_first_that_is_never_reached():
    assert Acceptance(120, 100, (80, 40, 0, 0)).alphas == (0.8, 0.5, 0.0)
    assert Acceptance(0, 10, (0, 0)).alphas == (0.0,)
    assert Acceptance(0, 0).alphas == ()
