"""The decision, as a table, and how often it errs."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from service.rollout.assess import MEASURES, Terms, find, lacking
from service.rollout.estimate import Counts, Estimate
from service.rollout.judge import ERRORS, MISMATCHES, Finding, Findings, Measure, Spending, Verdict, cost, decide, gain
from service.rollout.situation import Pair, Situation
from tests.service.rollout.simulated import Traffic, evidence, window

STEPS = 4
GOOD, BAD, UNCLEAR, NONE = Finding.GOOD, Finding.BAD, Finding.UNCLEAR, Finding.NOT_MEASURED


def measure(finding, name="speed"):
    return Measure(name, 1, None if finding is NONE else Estimate(1, 1, 1, 1, 1), finding)


def verdict(speed=GOOD, tau=GOOD, guard=GOOD, missing=()):
    return decide(Findings(measure(speed), measure(tau, "acceptance length"), [measure(guard, ERRORS)], missing))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Verdict.PROMOTE),
        ({"speed": UNCLEAR}, Verdict.HOLD),
        ({"tau": UNCLEAR}, Verdict.HOLD),
        ({"speed": NONE}, Verdict.HOLD),
        ({"tau": NONE}, Verdict.HOLD),
        ({"missing": ["nothing runs"]}, Verdict.HOLD),
        ({"guard": UNCLEAR}, Verdict.HOLD),
        ({"guard": NONE}, Verdict.PROMOTE),
        ({"speed": BAD}, Verdict.ROLL_BACK),
        ({"speed": BAD, "tau": GOOD}, Verdict.ROLL_BACK),
        ({"tau": BAD, "speed": UNCLEAR}, Verdict.ROLL_BACK),
        ({"tau": BAD, "speed": NONE}, Verdict.ROLL_BACK),
        ({"tau": BAD, "speed": GOOD}, Verdict.HOLD),
        ({"tau": BAD, "speed": GOOD, "guard": BAD}, Verdict.ROLL_BACK),
        ({"guard": BAD}, Verdict.ROLL_BACK),
        ({"guard": BAD, "missing": ["few requests"]}, Verdict.ROLL_BACK),
        ({"speed": BAD, "missing": ["few requests"]}, Verdict.ROLL_BACK),
    ],
    ids=str,
)
def test_what_speaks_against_a_canary_counts_before_what_is_missing_and_that_before_what_is_good(given, expected):
    assert verdict(**given)[0] is expected


def test_the_reason_names_what_decided():
    assert verdict(missing=["nothing runs", "nobody asks"])[1] == "nothing runs; nobody asks"
    assert verdict(speed=UNCLEAR, tau=UNCLEAR)[1] == "not yet certain of its speed and acceptance length"
    assert "A person decides" in verdict(tau=BAD)[1]
    assert verdict(guard=BAD)[1] == "its error rate is 100.00% (100.00% to 100.00%) above the stable pool's"
    assert verdict(guard=BAD, speed=BAD)[1].endswith("; its speed is 1.000 (1.000 to 1.000) times the stable pool's")


def estimate(low, value, high):
    return Estimate(value, 1.0, value, low, high)


@pytest.mark.parametrize(
    ("low", "high", "at_least", "expected"),
    [
        (0.99, 1.05, 0.98, GOOD),
        (0.97, 1.05, 0.98, UNCLEAR),
        (0.90, 0.97, 0.98, BAD),
        (0.90, 0.985, 0.98, UNCLEAR),
        (1.00, 1.03, 1.05, UNCLEAR),  # not what was hoped for, but no worse than the stable
        (0.90, 0.99, 1.05, BAD),
    ],
)
def test_a_gain_is_good_if_surely_enough_and_bad_if_surely_worse(low, high, at_least, expected):
    assert gain("speed", estimate(low, (low + high) / 2, high), at_least).finding is expected


@pytest.mark.parametrize(
    ("low", "value", "expected"), [(0.9, 1.1, GOOD), (0.9, 1.3, UNCLEAR), (1.21, 1.3, BAD), (1.0, 1.2, GOOD)]
)
def test_a_guard_rail_breaks_if_surely_above_its_limit(low, value, expected):
    assert cost("latency", estimate(low, value, 2), 1.2).finding is expected


@pytest.mark.parametrize(("high", "expected"), [(1.1, GOOD), (1.3, UNCLEAR)])
def test_where_it_is_to_be_sure_a_guard_rail_wants_the_whole_interval_within_its_limit(high, expected):
    assert cost(ERRORS, estimate(0.9, 1.0, high), 1.2, surely=True).finding is expected
    assert cost(ERRORS, estimate(0.9, 1.0, high), 1.2).finding is GOOD


def found(*, last=False, mismatches=(), **of_traffic):
    """Two hours at 50%."""
    traffic = Traffic(share=0.5, drift=0, speed=1.1, tau=1.1, **of_traffic)
    of_all = replace(evidence(traffic.blocks(24, 1)), mismatches=mismatches)
    return find(of_all, window(4), Terms(), STEPS, [], last=last)


def test_the_last_promotion_wants_errors_surely_within_their_limit():
    few, many = 0.3, 10.0
    assert decide(found(requests_per_s=few))[0] is Verdict.PROMOTE
    assert decide(found(requests_per_s=few, last=True)) == (Verdict.HOLD, "not yet certain of its error rate")
    assert decide(found(requests_per_s=many, last=True))[0] is Verdict.PROMOTE
    assert decide(found(requests_per_s=many, last=True, errors=0.01))[0] is Verdict.ROLL_BACK


@pytest.mark.parametrize(
    ("canary", "stable", "expected"),
    [
        ((0, 50), (0, 50), Verdict.PROMOTE),
        ((2, 50), (2, 50), Verdict.PROMOTE),
        ((3, 50), (2, 50), Verdict.HOLD),
        ((3, 50), (0, 0), Verdict.HOLD),
        ((25, 50), (2, 50), Verdict.ROLL_BACK),
        ((0, 0), (0, 0), Verdict.PROMOTE),
    ],
)
def test_wrong_answers_take_a_canary_back_if_surely_more_often_than_the_stable_pools(canary, stable, expected):
    judged = found(mismatches=[Counts(*canary, *stable)] * 12)
    decision, why = decide(judged)
    assert decision is expected
    if expected is Verdict.HOLD:
        told = f"{12 * canary[0]} of {12 * canary[1]} of its, {12 * stable[0]} of {12 * stable[1]} of the stable pool's"
        assert why == f"checked answers that were not the target's: {told}"
    if expected is Verdict.ROLL_BACK:
        assert why.startswith(f"its {MISMATCHES} is ")


@pytest.mark.parametrize(
    ("canary", "stable", "share", "missing"),
    [
        (1, 4, 0.25, 0),
        (1, 4, 0.5, 2),
        (3, 4, 0.5, 0),
        (1, 4, 1.0, 3),
        (4, 4, 1.0, 0),
        (8, 10, 1.0, 0),
        (1, 1, 0.5, 0),
        (1, 1, 1.0, 0),
    ],
)
def test_a_share_wants_replicas_in_proportion_and_never_more_than_the_stable_pool_has(canary, stable, share, missing):
    pools = Situation(Pair("next", "eagle"), {}, 0.05, None, [], [], {"next": canary, "eagle": stable})
    told = lacking(pools, share, Terms())
    assert [f"{missing} missing" in one for one in told] == [True] * bool(missing)
    assert lacking(pools, share, Terms(replicas_at_least=0)) == []


def test_the_chance_to_err_adds_up_to_what_was_said_over_all_looks_steps_and_measures():
    spending = Spending(0.05, STEPS, MEASURES)
    looks = [spending.of_look(look) for look in range(1, 10_000)]
    assert math.fsum(promotion for promotion, _ in looks) <= 0.05
    assert math.fsum(roll_back for _, roll_back in looks) * STEPS * MEASURES <= 0.05
    assert looks == sorted(looks, reverse=True)


LOOKS = (1, 2, 3, 4, 6, 8)


def first_decision(traffic, seed, *, last=False):
    """What becomes of a canary that is looked at again and again."""
    blocks = traffic.blocks(6 * LOOKS[-1], seed)
    for look in LOOKS:
        found = find(evidence(blocks[: 6 * look]), window(look), Terms(), STEPS, [], last=last)
        decision, _ = decide(found)
        if decision is not Verdict.HOLD:
            return decision
    return Verdict.HOLD


def share(verdict_, traffic, times):
    return Counter(first_decision(traffic, seed) for seed in range(times))[verdict_] / times


@pytest.mark.parametrize("drift", [0.0, 0.8])
def test_a_canary_as_good_as_the_stable_is_taken_back_no_more_often_than_was_said(drift):
    assert share(Verdict.ROLL_BACK, Traffic(drift=drift), 60) <= 0.05


def test_a_canary_at_the_limit_is_promoted_no_more_often_than_was_said():
    assert share(Verdict.PROMOTE, Traffic(speed=0.98, tau=0.98), 60) <= 0.05


def test_a_canary_that_is_clearly_better_is_promoted_and_one_that_is_clearly_worse_taken_back():
    assert share(Verdict.PROMOTE, Traffic(speed=1.1, tau=1.1), 10) == 1
    assert share(Verdict.ROLL_BACK, Traffic(speed=0.9, tau=0.9), 10) == 1


def test_a_canary_whose_requests_fail_is_taken_back_however_fast_it_is():
    assert share(Verdict.ROLL_BACK, Traffic(errors=0.2, speed=1.0, tau=1.0, requests_per_s=4), 10) == 1
