"""What counts as worse: laws of comparing intervals."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loadtest.reporting.verdict import Figure, Verdict, judge
from loadtest.stats import Estimate

MIRRORED = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
amounts = st.floats(0, 1e300)
tolerances = st.floats(0, 0.99)


@st.composite
def figures(draw, *, higher_is_better=None):
    low, value, high = sorted(draw(st.tuples(amounts, amounts, amounts)))
    better = draw(st.booleans()) if higher_is_better is None else higher_is_better
    return Figure(Estimate(value, low, high), higher_is_better=better)


def of(low, high, *, higher_is_better=True):
    return Figure(Estimate((low + high) / 2, low, high), higher_is_better=higher_is_better)


def test_an_interval_wholly_below_the_old_one_by_more_than_the_tolerance_is_worse():
    assert judge(of(1.5, 1.6), of(1.3, 1.45), 0.03) is Verdict.WORSE
    assert judge(of(1.5, 1.6), of(1.3, 1.46), 0.03) is Verdict.UNCLEAR
    assert judge(of(1.3, 1.45), of(1.5, 1.6), 0.03) is Verdict.BETTER


def test_of_latencies_the_larger_one_is_worse():
    assert judge(of(10, 11, higher_is_better=False), of(12, 13, higher_is_better=False), 0.03) is Verdict.WORSE
    assert judge(of(12, 13, higher_is_better=False), of(10, 11, higher_is_better=False), 0.03) is Verdict.BETTER


def test_the_same_means_that_no_value_in_both_intervals_differs_by_more_than_the_tolerance():
    assert judge(of(1.00, 1.01), of(1.00, 1.02), 0.03) is Verdict.SAME
    assert judge(of(1.00, 1.01), of(1.00, 1.20), 0.03) is Verdict.UNCLEAR


@given(figures(higher_is_better=True), tolerances)
def test_nothing_is_worse_or_better_than_itself(figure, tolerance):
    assert judge(figure, figure, tolerance) in {Verdict.SAME, Verdict.UNCLEAR}


@given(figures(higher_is_better=True), figures(higher_is_better=True), tolerances)
def test_the_other_way_round_worse_is_better(before, after, tolerance):
    verdict = judge(before, after, tolerance)
    assert judge(after, before, tolerance) is MIRRORED.get(verdict, verdict)


@given(figures(), figures(), tolerances, tolerances)
def test_more_tolerance_never_finds_a_regression_that_less_does_not(before, after, one, other):
    least, most = sorted((one, other))
    if judge(before, after, most) is Verdict.WORSE:
        assert judge(before, after, least) is Verdict.WORSE


@given(figures(), figures(), tolerances)
def test_an_interval_that_covers_less_than_it_says_decides_nothing(before, after, tolerance):
    few = replace(after, covered=False)
    assert judge(before, few, tolerance) is judge(few, before, tolerance) is Verdict.UNCLEAR


@given(figures(), tolerances)
def test_a_value_that_must_not_be_judged_is_not(figure, tolerance):
    assert judge(figure, replace(figure, fault="no --raw"), tolerance) is Verdict.NOT_JUDGED


@given(figures(), tolerances)
def test_what_is_no_result_is_judged_neither_way(figure, tolerance):
    assert judge(figure, Figure(None, "too noisy"), tolerance) is Verdict.NOT_JUDGED
    assert judge(Figure(None, "missing"), figure, tolerance) is Verdict.NOT_JUDGED
