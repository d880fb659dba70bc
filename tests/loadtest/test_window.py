"""The accounting of a run: laws over answers whose every arrival is known."""

from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.closed_loop import Run
from loadtest.errors import NoWindow
from loadtest.record import Acceptance, Answer, Arrival, Request
from loadtest.window import all_decoding, decode_token_s, figures, tokens_between

TIMES = st.floats(0, 100)
ARRIVALS = st.lists(TIMES, min_size=1, max_size=20, unique=True).map(sorted)


def answer(times, acceptance=None):
    return Answer(tuple(map(Arrival, times, count(1))), 10, len(times), acceptance)


def request(times, acceptance=None):
    return Request(times[0] - 1, times[-1], answer(times, acceptance))


def batch(lengths, concurrency, *, step_s, prompt_s):
    """A runtime that decodes a step for all at a time, and stops for every prompt: requests of these lengths."""
    now_s, left, running, done = 0.0, list(lengths), [], []
    while left or running:
        while left and len(running) < concurrency:  # the one whose place is free is answered at once
            now_s += prompt_s
            running.append((left.pop(0), [now_s]))
        now_s += step_s
        for _, times in running:
            times.append(now_s)
        done += [request(times) for length, times in running if len(times) >= length]
        running = [(length, times) for length, times in running if len(times) < length]
    return done


@given(st.lists(ARRIVALS, max_size=6), st.lists(TIMES, min_size=2, max_size=6).map(sorted))
def test_windows_side_by_side_count_every_token_once(requests, edges):
    answers = [answer(times) for times in requests]
    parts = sum(tokens_between(answers, start, end) for start, end in pairwise(edges))
    assert parts == pytest.approx(tokens_between(answers, edges[0], edges[-1]))


@given(st.lists(ARRIVALS, max_size=6))
def test_a_window_around_everything_counts_what_usage_says(requests):
    answers = [answer(times) for times in requests]
    assert tokens_between(answers, -1, 101) == sum(each.completion_tokens for each in answers)


def test_a_cut_request_counts_only_what_arrived_inside():
    assert tokens_between([answer([1, 2, 3, 4])], 1, 3) == 2  # after the start, until the end


@given(
    st.lists(st.integers(3, 30), min_size=1, max_size=24),
    st.integers(1, 4),
    st.floats(0.01, 1),
    st.floats(0.001, 5),
)
def test_decoding_alone_is_the_step_time_whatever_prompts_cost(lengths, concurrency, step_s, prompt_s):
    requests = batch(lengths, concurrency, step_s=step_s, prompt_s=prompt_s)
    try:
        assert decode_token_s(requests, concurrency) == pytest.approx(step_s)
    except NoWindow:
        assert concurrency > 1  # so many never decoded together; a single one always does


def test_decoding_alone_is_found_in_an_ordinary_run():
    requests = batch([12, 30, 17, 25, 9, 31, 14, 22], 4, step_s=0.05, prompt_s=0.4)
    assert decode_token_s(requests, 4) == pytest.approx(0.05)


def test_an_arrival_may_bring_several_tokens():
    several = Answer((Arrival(1.0, 1), Arrival(2.0, 4), Arrival(3.0, 7)), 10, 7)
    assert decode_token_s([Request(0.0, 3.0, several)], 1) == pytest.approx(1 / 3)


def test_all_decoding_is_where_nobody_waits():
    requests = [request([1, 2, 3, 4]), request([2, 3, 5]), request([6, 7])]
    assert all_decoding(requests, 2) == [(2, 4)]
    assert all_decoding(requests, 3) == []


def test_answers_of_one_token_cannot_time_decoding():
    with pytest.raises(NoWindow, match="raise --max-tokens"):
        decode_token_s([request([1.0]), request([2.0])], 1)


def run_of(requests, start_s, end_s):
    return Run(tuple(requests), 1, start_s, end_s, cpu_s=0.5, wall_s=10.0, timed_out=False)


def test_figures_of_a_run():
    requests = [request([1, 2, 3], Acceptance(2, 4)), request([5, 6, 7], Acceptance(4, 2))]
    result = figures(run_of(requests, 4.0, 7.0))
    assert result.tokens_per_s == pytest.approx(1.0)
    assert result.token_s == pytest.approx(1.0)
    assert result.acceptance == Acceptance(6, 6)
    assert result.acceptance.length == pytest.approx(2.0)
    assert result.prompt_tokens == (10, 10)
    assert result.client_cpu_share == pytest.approx(0.05)


def test_a_window_without_tokens_has_no_figures():
    with pytest.raises(NoWindow, match="no token arrived"):
        figures(run_of([request([1, 2, 3])], 4.0, 7.0))


@pytest.mark.parametrize(("start_s", "end_s"), [(None, 7.0), (7.0, 7.0), (8.0, 7.0)])
def test_a_run_without_a_steady_window_has_no_figures(start_s, end_s):
    with pytest.raises(NoWindow, match="before a steady window"):
        figures(run_of([request([1, 2, 3])], start_s, end_s))
