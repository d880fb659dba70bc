"""Laws of the intervals."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.stats import (
    coefficient_of_variation,
    coverage_of_all,
    fewest,
    median_with_interval,
    percentile,
    percentile_with_interval,
    wilson,
)

VALUES = st.lists(st.floats(0.1, 1000), min_size=1, max_size=12)


@given(VALUES)
def test_an_interval_holds_the_median_and_lies_within_the_values(values):
    estimate = median_with_interval(values)
    assert estimate.value == statistics.median(values)
    assert min(values) <= estimate.low <= estimate.value <= estimate.high <= max(values)


def coverage(count):
    """Of the ranks that bound the median of so many values: exact, by counting coin tosses."""
    estimate = median_with_interval(range(1, count + 1))
    tails = sum(math.comb(count, below) for below in range(int(estimate.low)))
    return 1 - 2 * tails / 2**count


@pytest.mark.parametrize("count", range(6, 60))
def test_from_six_values_on_the_interval_covers_the_median_and_no_narrower_one_would(count):
    estimate = median_with_interval(range(1, count + 1))
    low = int(estimate.low)
    assert estimate.high == count + 1 - low
    assert coverage(count) >= 0.95
    assert coverage(count) - 2 * math.comb(count, low) / 2**count < 0.95


@pytest.mark.parametrize("count", range(1, 6))
def test_fewer_values_cover_the_median_less_often_and_that_is_told(count):
    assert coverage(count) == pytest.approx(coverage_of_all(count))
    assert coverage_of_all(count) < 0.95 <= coverage_of_all(fewest(50))


@pytest.mark.parametrize("count", range(6, 60))
def test_the_same_twice_looks_worse_three_times_in_a_thousand_at_most(count):
    low = int(median_with_interval(range(1, count + 1)).low)
    high = count + 1 - low
    # all orders of both runs' values are as likely: so many of the new ones lie before the old one of rank `low`
    orders = sum(
        math.comb(before + low - 1, before) * math.comb(2 * count - before - low, count - before)
        for before in range(high, count + 1)
    )
    assert orders / math.comb(2 * count, count) <= 0.003


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=400), st.sampled_from([50, 90, 99]))
def test_a_percentile_was_seen_and_lies_in_its_interval(values, percent):
    found = percentile_with_interval(sorted(values), percent)
    assert {found.low, found.value, found.high} <= set(values)
    assert found.low <= found.value == percentile(sorted(values), percent) <= found.high
    assert sum(value <= found.value for value in values) * 100 >= percent * len(values)


def test_a_percentile_has_an_upper_end_from_the_fewest_values_on():
    assert [fewest(percent) for percent in (50, 90, 99)] == [6, 36, 368]
    assert 0.99 ** fewest(99) <= 0.025 < 0.99 ** (fewest(99) - 1)


@given(st.integers(1, 10**6), st.data())
def test_wilsons_interval_holds_the_share_and_stays_a_share(of, data):
    share = data.draw(st.integers(0, of)) / of
    low, high = wilson(share, of)
    assert 0 <= low <= share <= high <= 1


def test_wilsons_interval_is_the_published_one_and_narrows_with_the_count():
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 20)[0] == pytest.approx(0.8389, abs=1e-4)
    assert wilson(0.5, 40)[0] > wilson(0.5, 10)[0]


@given(VALUES, st.sampled_from([0.5, 2.0, 64.0]))
def test_an_interval_scales_with_its_unit(values, factor):
    estimate, scaled = median_with_interval(values), median_with_interval([value * factor for value in values])
    assert (scaled.low, scaled.high) == (estimate.low * factor, estimate.high * factor)


def test_of_three_values_the_interval_is_all_of_them():
    estimate = median_with_interval([10.0, 12.0, 11.0])
    assert (estimate.low, estimate.value, estimate.high) == (10.0, 11.0, 12.0)


def test_more_values_of_the_same_spread_narrow_it():
    few, many = [9.0, 10.0, 11.0], [9.0, 10.0, 11.0] * 20
    assert median_with_interval(many).high - median_with_interval(many).low < 2.0
    assert median_with_interval(few).high - median_with_interval(few).low == 2.0


def test_equal_values_leave_no_doubt_and_no_variation():
    estimate = median_with_interval([5.0] * 4)
    assert estimate.low == estimate.high == 5.0
    assert coefficient_of_variation([5.0] * 4) == 0


@given(st.lists(st.floats(1, 100), min_size=2, max_size=8), st.sampled_from([0.25, 2.0, 8.0]))
def test_variation_has_no_unit(values, factor):
    assert coefficient_of_variation([value * factor for value in values]) == pytest.approx(
        coefficient_of_variation(values), abs=1e-12
    )
