"""What requests come to: figures that can be counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.record import Acceptance, Answer, Arrival, Failure, Left, Request
from loadtest.summary import Distribution, Objectives, summarise


def answered(first_s, last_s, tokens, acceptance=None):
    """Sent at 0; the first token at `first_s`, all of them at `last_s`."""
    arrivals = (Arrival(first_s, 1), Arrival(last_s, tokens)) if tokens > 1 else (Arrival(first_s, 1),)
    return Request(0.0, last_s, Answer(arrivals, 10, tokens, acceptance))


FAST, SLOW = answered(0.1, 1.0, 10, Acceptance(6, 3)), answered(0.5, 5.0, 10, Acceptance(2, 7))
FAILED = Request(0.0, 1.0, Failure("timeout", "scripted"))


def test_rates_are_of_answered_requests_and_tau_is_weighted_by_passes():
    found = summarise([FAST, SLOW, FAILED], wall_s=5.0, objectives=Objectives())
    assert (found.requests, found.answered, found.failures) == (3, 2, {"timeout": 1})
    assert found.requests_per_s == pytest.approx(0.4)
    assert found.completion_tokens_per_s == pytest.approx(4)
    assert (found.prompt_tokens, found.completion_tokens) == (20, 20)
    assert found.acceptance_length == pytest.approx(1 + 8 / 10)
    assert found.tpot_s.percentiles == {50: pytest.approx(0.1), 90: pytest.approx(0.5), 99: pytest.approx(0.5)}
    assert (found.good, found.good_per_s) == (None, None)


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        (Objectives(ttft_s=0.5), 2),
        (Objectives(ttft_s=0.4), 1),
        (Objectives(tpot_s=0.2), 1),
        (Objectives(e2e_s=0.9), 0),
        (Objectives(ttft_s=0.4, e2e_s=9), 1),
    ],
)
def test_goodput_counts_answers_that_kept_every_objective(objectives, good):
    found = summarise([FAST, SLOW, FAILED], wall_s=2.0, objectives=objectives)
    assert (found.good, found.good_per_s) == (good, good / 2)


def test_clients_that_left_are_neither_answered_nor_failed_and_spoil_no_goodput():
    found = summarise([FAST, SLOW, Request(0.0, 0.2, Left(3))], wall_s=2.0, objectives=Objectives(ttft_s=9))
    assert (found.requests, found.answered, found.left, found.failed) == (3, 2, 1, 0)
    assert (found.good, found.good_share, found.completion_tokens) == (2, 1.0, 20)


def test_an_answer_too_short_to_tell_its_pace_keeps_that_objective():
    assert Objectives(tpot_s=0.001).met_by(answered(0.1, 0.1, 1))


def test_an_answer_without_a_token_keeps_no_objective_of_the_first_one():
    empty = Request(0.0, 0.1, Answer((), 5, 0))
    assert not Objectives(ttft_s=1).met_by(empty)
    assert Objectives(e2e_s=1).met_by(empty)


def test_of_nothing_there_is_nothing():
    found = summarise([], wall_s=0.0, objectives=Objectives(ttft_s=1))
    assert (found.requests_per_s, found.ttft_s, found.acceptance_length, found.good) == (0, None, None, 0)


@given(st.lists(st.floats(0, 100) | st.none()))
def test_percentiles_were_all_seen_and_ascend(values):
    found, known = Distribution.of(values), [value for value in values if value is not None]
    assert (found is None) == (not known)
    if found is not None:
        p50, p90, p99 = found.percentiles.values()
        assert {p50, p90, p99} <= set(known)
        assert min(known) <= p50 <= p90 <= p99 <= max(known)
        assert sum(value <= p50 for value in known) >= len(known) / 2
