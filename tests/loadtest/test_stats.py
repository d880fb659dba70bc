"""Laws of the intervals."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.stats import coefficient_of_variation, median_with_interval

VALUES = st.lists(st.floats(0.1, 1000), min_size=1, max_size=12)


@given(VALUES)
def test_an_interval_holds_the_median_and_lies_within_the_values(values):
    estimate = median_with_interval(values)
    assert estimate.value == statistics.median(values)
    assert min(values) <= estimate.low <= estimate.value <= estimate.high <= max(values)


@given(VALUES)
def test_the_same_seed_gives_the_same_interval(values):
    assert median_with_interval(values, seed=7) == median_with_interval(values, seed=7)


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
