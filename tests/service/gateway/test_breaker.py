"""The breaker's laws: when it opens, how long it waits, and that one request at a time tries to close it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.breaker import Breaker, BreakerPolicy, State

POLICY = BreakerPolicy(failures=3, window=5, backoff_s=1, backoff_limit_s=10)


class Longest(random.Random):
    def uniform(self, a, b):
        return b


class Bench:
    """A breaker under a clock of its own."""

    def __init__(self, policy=POLICY, rng=None):
        self.now_s = 100.0
        self.breaker = Breaker(policy, clock=lambda: self.now_s, rng=rng or Longest())

    def request(self, *, failed):
        permit = self.breaker.enter()
        permit.failed() if failed else permit.succeeded()

    def open(self):
        for _ in range(POLICY.failures):
            self.request(failed=True)
        assert self.breaker.state is State.OPEN
        return self

    def half_open(self):
        self.open()
        self.now_s += POLICY.backoff_s
        assert self.breaker.state is State.HALF_OPEN
        return self


@given(st.lists(st.booleans(), max_size=40))
def test_it_opens_at_the_first_window_with_too_many_failures_and_not_before(outcomes):
    bench = Bench()
    for sent, failed in enumerate(outcomes, start=1):
        bench.request(failed=failed)
        too_many = sum(outcomes[:sent][-POLICY.window :]) >= POLICY.failures
        assert (bench.breaker.state is State.OPEN) == too_many
        if too_many:
            return


def test_requests_that_say_nothing_neither_open_nor_count():
    bench = Bench()
    for _ in range(POLICY.failures - 1):
        bench.request(failed=True)
    for _ in range(100):
        bench.breaker.enter().dropped()
    assert bench.breaker.state is State.CLOSED
    bench.request(failed=True)
    assert bench.breaker.state is State.OPEN


def test_open_it_lets_nothing_through_until_the_backoff_is_over():
    bench = Bench().open()
    bench.now_s += POLICY.backoff_s - 1e-6
    assert bench.breaker.reason is not None
    bench.now_s += 1e-6
    assert (bench.breaker.state, bench.breaker.reason) == (State.HALF_OPEN, None)


def test_half_open_it_lets_one_request_through_at_a_time():
    bench = Bench().half_open()
    trial = bench.breaker.enter()
    assert bench.breaker.reason is not None
    trial.succeeded()
    assert bench.breaker.reason is None


def test_a_trial_that_says_nothing_gives_its_place_back():
    bench = Bench().half_open()
    bench.breaker.enter().dropped()
    assert (bench.breaker.state, bench.breaker.reason) == (State.HALF_OPEN, None)


def test_a_trial_that_ends_well_closes_and_forgets():
    bench = Bench().half_open()
    bench.request(failed=False)
    for _ in range(POLICY.failures - 1):
        bench.request(failed=True)
    assert bench.breaker.state is State.CLOSED


def test_the_backoff_doubles_with_every_failed_trial_up_to_its_limit_and_starts_anew_after_success():
    bench, waits = Bench().open(), []
    for _ in range(6):
        began_s = bench.now_s
        while bench.breaker.state is State.OPEN:
            bench.now_s += 0.5
        waits.append(bench.now_s - began_s)
        bench.request(failed=True)
    assert waits == [1, 2, 4, 8, 10, 10]
    bench.now_s += POLICY.backoff_limit_s
    bench.request(failed=False)
    bench.open()
    bench.now_s += POLICY.backoff_s
    assert bench.breaker.state is State.HALF_OPEN


@given(st.integers(0, 2**32))
def test_jitter_shortens_a_backoff_by_at_most_half(seed):
    bench = Bench(rng=random.Random(seed)).open()
    bench.now_s += POLICY.backoff_s / 2 - 1e-6
    assert bench.breaker.state is State.OPEN
    bench.now_s += POLICY.backoff_s / 2 + 2e-6
    assert bench.breaker.state is State.HALF_OPEN


@pytest.mark.parametrize("when", ["open", "half-open", "closed again"])
def test_what_was_let_through_before_it_opened_says_nothing_afterwards(when):
    bench = Bench()
    late = [bench.breaker.enter() for _ in range(2 * POLICY.failures)]
    bench.open()
    if when != "open":
        bench.now_s += POLICY.backoff_s
    if when == "closed again":
        bench.request(failed=False)
    was = bench.breaker.state
    late.pop().succeeded()
    for permit in late:
        permit.failed()
    assert bench.breaker.state is was
    bench.now_s += POLICY.backoff_s
    assert bench.breaker.reason is None


def test_the_first_outcome_of_a_request_counts():
    bench = Bench()
    for _ in range(POLICY.failures):
        permit = bench.breaker.enter()
        permit.succeeded()
        permit.failed()
    assert bench.breaker.state is State.CLOSED


@given(st.lists(st.tuples(st.sampled_from(["enter", "wait", "well", "badly", "neither"]), st.integers(0, 9))))
def test_whatever_happens_trials_are_one_at_a_time_and_it_never_stays_shut(steps):
    bench, underway = Bench(), []
    for action, number in steps:
        if action == "wait":
            bench.now_s += number
        elif action == "enter":
            if bench.breaker.reason is None:
                underway.append(bench.breaker.enter())
                assert bench.breaker.state is State.CLOSED or bench.breaker.reason is not None
        elif underway:
            permit = underway.pop(number % len(underway))
            {"well": permit.succeeded, "badly": permit.failed, "neither": permit.dropped}[action]()
    for permit in underway:
        permit.dropped()
    bench.now_s += POLICY.backoff_limit_s
    assert bench.breaker.reason is None


@pytest.mark.parametrize(
    "fields", [{"failures": 0}, {"failures": 11}, {"backoff_s": 0}, {"backoff_s": 2, "backoff_limit_s": 1}]
)
def test_a_policy_that_cannot_work_is_refused(fields):
    with pytest.raises(ValueError, match="need"):
        BreakerPolicy(**fields)
