"""Whether speculation pays: laws of the throttle, and one for each model."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.metrics import Metrics
from service.gateway.policy import BatchSizeLimits, Live, PoolLoad
from service.gateway.throttle import Throttle, Throttles

DOWN = PoolLoad(0, 0)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


LIMITS = BatchSizeLimits(off_above=16, on_below=8, dwell_s=30)


def throttled(steps):
    """Feed (seconds passed, batch size) to a throttle; what it said after each, and its switches."""
    clock = Clock()
    throttle = Throttle(LIMITS, clock)
    said = []
    for passed_s, batch_size in steps:
        clock.now_s += passed_s
        said.append((clock.now_s, throttle.update(PoolLoad(1, batch_size), PoolLoad(1, 0))))
    return said, throttle.switches


@pytest.mark.parametrize(
    ("steps", "pays", "switches"),
    [
        ([(0, 16)], [True], 0),
        ([(0, 17)], [False], 1),
        ([(0, 17), (60, 8)], [False, False], 1),
        ([(0, 17), (60, 7)], [False, True], 2),
        ([(0, 17), (29, 0), (1, 0)], [False, False, True], 2),
        ([(0, 17), (29, 0), (1, 12)], [False, False, False], 1),
        ([(0, 17), (30, 0), (29, 99), (1, 99)], [False, True, True, False], 3),
    ],
)
def test_a_throttle_honours_both_thresholds_and_the_dwell_time(steps, pays, switches):
    said, counted = throttled(steps)
    assert [value for _, value in said] == pays
    assert counted == switches


seconds = st.floats(0, 40)


@given(st.lists(st.tuples(seconds, st.integers(0, 40))))
def test_a_throttle_never_switches_twice_within_the_dwell_time(steps):
    said, counted = throttled(steps)
    history = [(0.0, True), *said]
    switched_s = [now_s for (_, before), (now_s, after) in pairwise(history) if before is not after]
    assert len(switched_s) == counted
    assert all(later - sooner >= LIMITS.dwell_s for sooner, later in pairwise(switched_s))


@given(st.sampled_from([0, 17]), st.lists(st.tuples(seconds, st.integers(8, 16))))
def test_a_batch_size_between_the_thresholds_never_switches(start, steps):
    _, before = throttled([(0, start)])
    _, after = throttled([(0, start), *steps])
    assert before == after


def test_requests_sent_to_the_baseline_do_not_call_speculation_back():
    throttle = Throttle(LIMITS, Clock())
    assert not throttle.update(PoolLoad(2, 40), PoolLoad(2, 0))
    throttle = Throttle(BatchSizeLimits(off_above=16, on_below=12, dwell_s=0), Clock())
    assert not any(throttle.update(PoolLoad(2, 40 - moved), PoolLoad(2, moved)) for moved in range(41))
    assert throttle.switches == 1


def test_a_pool_that_is_down_leaves_the_throttle_as_it_is():
    throttle = Throttle(LIMITS, Clock())
    assert throttle.update(DOWN, PoolLoad(1, 999))
    assert throttle.switches == 0


def said(metrics):
    return {s.labels["model"]: s.value for s in metrics.speculation_pays.collect()[0].samples}


def test_each_model_has_its_own():
    metrics = Metrics()
    throttles = Throttles(LIMITS, metrics)
    busy, idle, alone = (
        Live(PoolLoad(1, 17), PoolLoad(1, 0)),
        Live(PoolLoad(1, 1), PoolLoad(1, 0)),
        Live(PoolLoad(1, 99), None),
    )
    throttles.update({"busy": busy, "idle": idle, "alone": alone})
    assert [throttles.pays(model) for model in ("busy", "idle", "alone", "unknown")] == [False, True, True, True]
    assert said(metrics) == {"busy": 0, "idle": 1}
    assert metrics.registry.get_sample_value("aerie_policy_switches_total", {"model": "busy"}) == 1


def test_a_model_that_is_gone_is_forgotten_and_new_limits_hold_for_the_others():
    metrics = Metrics()
    throttles = Throttles(LIMITS, metrics)
    busy = Live(PoolLoad(1, 17), DOWN)
    throttles.update({"gone": busy, "plain": busy, "stays": Live(PoolLoad(1, 10), DOWN)})
    throttles.adopt(BatchSizeLimits(off_above=9, on_below=5, dwell_s=30))
    throttles.update({"plain": Live(PoolLoad(1, 17), None), "stays": Live(PoolLoad(1, 10), DOWN)})
    assert throttles.pays("gone")
    assert throttles.pays("plain"), "it has no baseline any more"
    assert said(metrics) == {"stays": 0}
