"""The estimators, by their laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from service.rollout import student
from service.rollout.estimate import MIN_BLOCKS, Counts, Tails, compare_rates, compare_shares, overlap
from tests.service.rollout.simulated import Traffic

TAILS = Tails(0.025, 0.01)
amounts = st.floats(1, 1e6)
counts = st.builds(Counts, amounts, amounts, amounts, amounts)
series = st.lists(st.dictionaries(st.sampled_from("abc"), counts, min_size=3), min_size=MIN_BLOCKS, max_size=12)
factors = st.floats(0.01, 100)


def close(one, other):
    return all(math.isclose(mine, its, rel_tol=1e-6, abs_tol=1e-9) for mine, its in zip(one, other, strict=True))


def scaled(blocks, events, exposure):
    by = Counts(events, exposure, events, exposure)
    return [
        {name: Counts(*map(math.prod, zip(one, by, strict=True))) for name, one in block.items()} for block in blocks
    ]


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 8, 11, 23])
@pytest.mark.parametrize("tail", [0.5, 0.1, 0.025, 1e-3, 1e-7])
def test_quantiles_are_those_of_students_distribution(tail, degrees):
    assert student.quantile(tail, degrees) == pytest.approx(stats.t.isf(tail, degrees), rel=1e-6, abs=1e-9)


@given(series, factors, factors)
def test_counting_both_pools_in_other_units_changes_nothing(blocks, events, exposure):
    before, after = compare_rates(blocks, TAILS), compare_rates(scaled(blocks, events, exposure), TAILS)
    assert close(before[2:], after[2:])
    assert after.canary == pytest.approx(before.canary * events / exposure)


@given(series)
def test_exchanging_the_pools_inverts_the_ratio(blocks):
    turned = [{name: Counts(*one[2:], *one[:2]) for name, one in block.items()} for block in blocks]
    here, there = compare_rates(blocks, Tails(0.01, 0.025)), compare_rates(turned, Tails(0.025, 0.01))
    assert close((here.value, here.low, here.high), (1 / there.value, 1 / there.high, 1 / there.low))


@given(series)
def test_the_value_lies_in_its_interval_and_less_doubt_makes_it_wider(blocks):
    one, surer = compare_rates(blocks, TAILS), compare_rates(blocks, Tails(0.001, 0.001))
    assert surer.low <= one.low <= one.value <= one.high <= surer.high


@given(series)
def test_the_same_evidence_again_never_widens_the_interval(blocks):
    once, twice = compare_rates(blocks, TAILS), compare_rates(blocks * 2, TAILS)
    assert twice.value == pytest.approx(once.value)
    assert math.log(twice.high / twice.low) <= math.log(once.high / once.low) * (1 + 1e-9) + 1e-12


@given(series, counts)
def test_a_batch_size_that_only_one_pool_has_seen_counts_for_nothing(blocks, other):
    alone = other._replace(stable_events=0.0, stable_exposure=0.0)
    assert close(compare_rates(blocks, TAILS), compare_rates([block | {"alone": alone} for block in blocks], TAILS))


def test_a_pool_of_large_batches_is_compared_batch_size_by_batch_size():
    busy, idle = 1000.0, 10.0
    block = {"1": Counts(50 * idle, idle, 50 * busy, busy), "64": Counts(900 * busy, busy, 900 * idle, idle)}
    found = compare_rates([block] * MIN_BLOCKS, TAILS)
    assert found[2:] == pytest.approx((1, 1, 1))
    assert overlap([block]) < 0.05


def test_too_few_blocks_in_which_both_pools_worked_tell_nothing():
    both, one = {"": Counts(1, 1, 1, 1)}, {"": Counts(0, 0, 1, 1)}
    assert compare_rates([both] * (MIN_BLOCKS - 1) + [one] * 20, TAILS) is None
    assert compare_rates([both] * MIN_BLOCKS, TAILS) is not None
    assert compare_rates([], TAILS) is None


def test_intervals_hold_the_truth_as_often_as_they_say_though_neighbours_are_alike():
    rates = [compare_rates([block["acceptance"] for block in Traffic().blocks(24, seed)], TAILS) for seed in range(400)]
    outside = sum(not one.low <= 1 <= one.high for one in rates)
    assert outside / len(rates) < 0.1  # 0.035 if blocks were independent; drift outlives a block here


def errors(canary, stable, requests=1000):
    return [Counts(its, requests, others, requests) for its, others in zip(canary, stable, strict=True)]


def test_no_errors_at_all_are_still_uncertain():
    found = compare_shares(errors([0] * 6, [0] * 6, requests=10), TAILS)
    assert found.value == 0
    assert found.low < -0.01
    assert found.high > 0.01


def test_one_burst_of_errors_weighs_less_than_as_many_spread_out():
    burst = compare_shares(errors([60, 0, 0, 0, 0, 0], [0] * 6, requests=100), TAILS)
    spread = compare_shares(errors([10] * 6, [0] * 6, requests=100), TAILS)
    assert burst.value == spread.value == pytest.approx(0.1)
    assert burst.low < spread.low / 4


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=24))
def test_a_difference_of_shares_lies_in_its_interval_and_turns_with_the_pools(pairs):
    canary, stable = zip(*pairs, strict=True)
    found, turned = (
        compare_shares(errors(canary, stable), TAILS),
        compare_shares(errors(stable, canary), Tails(0.01, 0.025)),
    )
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert close((found.low, found.high), (-turned.high, -turned.low))


def test_shares_of_no_requests_are_none():
    assert compare_shares([Counts(0, 0, 1, 10)], TAILS) is None
    assert compare_shares([], TAILS) is None


def test_evidence_of_a_longer_time_narrows_the_interval():
    def width(count, seed):
        found = compare_rates([block["speed"] for block in Traffic(drift=0).blocks(count, seed)], TAILS)
        return found.high - found.low

    widths = [sum(width(count, seed) for seed in range(20)) for count in (6, 12, 24)]
    assert widths == sorted(widths, reverse=True)
