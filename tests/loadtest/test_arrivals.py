"""When requests are due: laws of the schedules."""

import statistics
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import ramped, random_arrivals, traced_arrivals
from loadtest.errors import TraceError

rates, shapes, seeds = st.floats(0.01, 1000), st.floats(0.1, 20), st.integers(0, 2**32)


@given(rates, shapes, seeds)
def test_times_ascend_and_the_same_seed_gives_the_same(rate, burstiness, seed):
    first, again = (list(islice(random_arrivals(rate, burstiness=burstiness, seed=seed), 50)) for _ in range(2))
    assert first == again == sorted(first)
    assert first[0] >= 0


def test_another_seed_gives_other_times():
    assert next(random_arrivals(1, seed=1)) != next(random_arrivals(1, seed=2))


@pytest.mark.parametrize("burstiness", [0.25, 1, 4])
def test_gaps_have_the_mean_of_the_rate_and_the_variation_of_the_burstiness(burstiness):
    times = list(islice(random_arrivals(20, burstiness=burstiness, seed=0), 20_000))
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    assert statistics.fmean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


@given(rates, seeds, st.floats(0.1, 100))
def test_a_ramp_keeps_the_order_and_only_shifts_what_comes_after_it(rate, seed, ramp_s):
    steady = list(islice(random_arrivals(rate, seed=seed), 100))
    grown = list(ramped(steady, ramp_s))
    assert grown == sorted(grown)
    assert all(at_s > ramp_s for at_s, before_s in zip(grown, steady, strict=True) if before_s > ramp_s / 2)
    assert [at_s for at_s in grown if at_s > ramp_s] == pytest.approx(
        [at_s + ramp_s / 2 for at_s in steady if at_s > ramp_s / 2]
    )


def test_in_a_ramp_the_rate_grows_evenly():
    """Half of its time has a quarter of its requests."""
    evenly = [number / 100 for number in range(2000)]
    in_ramp = [at_s for at_s in ramped(evenly, 10) if at_s < 10]
    assert len(in_ramp) == pytest.approx(500, abs=1)
    assert sum(at_s < 5 for at_s in in_ramp) == pytest.approx(125, abs=1)


def test_a_trace_is_taken_as_it_is(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0}\n\n{"at_s": 0.5, "prompt": "ignored"}\n{"at_s": 0.5}\n{"at_s": 7}\n')
    assert traced_arrivals(path) == (0, 0.5, 0.5, 7)


@pytest.mark.parametrize("bad", ["{}", "[]", "x", '{"at_s": "1"}', '{"at_s": true}', '{"at_s": -1}', '{"at_s": 0.1}'])
def test_a_broken_trace_is_refused_with_its_line(tmp_path, bad):
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"at_s": 0.2}}\n{bad}\n')
    with pytest.raises(TraceError, match='line 2 has no "at_s"'):
        traced_arrivals(path)


def test_a_trace_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        traced_arrivals(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TraceError, match="no request in it"):
        traced_arrivals(tmp_path / "empty.jsonl")
