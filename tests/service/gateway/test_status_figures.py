"""What the status page computes: ratios of sums, windows between looks, bars as high as their values."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from service.gateway.metrics import Metrics
from service.gateway.status_charts import HEIGHT, WIDTH, Bars, bar_chart
from service.gateway.status_figures import BUSY_S, batch_rows, speedup
from service.gateway.status_history import INTERVAL_S, SHORTEST_S, WINDOW_S, History, Totals, Window
from service.gateway.status_words import duration
from tests.service.gateway.test_status_page import Seen


def test_figures_are_ratios_of_sums_and_pools_without_a_calibration_do_not_spoil_the_speedup():
    metrics = Metrics()
    for pool, replica, size, seconds, tokens, baseline in (
        ("eagle", "a", "1", 10, 200, 100),
        ("eagle", "b", "1", 30, 400, 300),
        ("eagle", "a", "4", 10, 500, 250),
        ("plain", "c", "1", 10, 100, 0),
    ):
        labels = (pool, replica, size)
        metrics.batch_seconds.labels(*labels).inc(seconds)
        metrics.batch_tokens.labels(*labels).inc(tokens)
        if baseline:
            metrics.batch_calibrated_tokens.labels(*labels).inc(tokens)
            metrics.batch_baseline_tokens.labels(*labels).inc(baseline)
    metrics.break_even.labels("eagle", "4").set(2.5)
    now = Totals(metrics.registry.collect())
    assert speedup(now, None, ["eagle", "plain"]) == (None, 1100 / 650)
    one, four = batch_rows(now, None, "eagle", ["plain"])
    assert one == ("1", (None, 15.0), 10.0, (None, 1.5), 1.5, None)
    assert four == ("4", (None, 50.0), 25.0, (None, 2.0), None, 2.5)
    soon = Window(Totals([]), now, 60.0)
    assert [row.tokens_per_s.recent for row in batch_rows(now, soon, "eagle", [])] == [15.0, 50.0]
    metrics.batch_seconds.labels("eagle", "a", "1").inc(BUSY_S - 0.1)
    little = Window(now, Totals(metrics.registry.collect()), 60.0)
    assert [row.tokens_per_s.recent for row in batch_rows(now, little, "eagle", [])] == [None, None]
    (alone,) = batch_rows(now, None, "plain", ["plain"])
    assert alone == ("1", (None, 10.0), None, (None, None), None, None)


def test_a_count_that_falls_is_no_growth():
    then, now = Counted(), Counted()
    then.counter.labels("a").inc(5)
    window = Window(Totals(then.collect()), Totals(now.collect()), 60.0)
    assert window.grew("aerie_completion_tokens_total", "a") == 0


class Counted:
    """A history of one counter, and a clock that a test moves."""

    def __init__(self):
        registry = CollectorRegistry()
        self.counter = Counter("aerie_completion_tokens", "Tokens", ["pool"], registry=registry)
        self.now_s, self.collected = 0.0, 0
        self.registry = registry
        self.history = History(self.collect, clock=lambda: self.now_s)

    def collect(self):
        self.collected += 1
        return self.registry.collect()


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 100)), min_size=1, max_size=80))
def test_a_window_is_a_minute_or_what_there_is_and_grows_by_what_was_counted_in_it(steps):
    counted, snapshots = Counted(), []
    for wait_s, tokens in steps:
        counted.now_s += wait_s
        counted.counter.labels("a").inc(tokens)
        due = counted.history.due
        now, window = counted.history.look()
        if due:
            snapshots.append((counted.now_s, now.sum("aerie_completion_tokens_total")))
        taken_s, total = snapshots[-1]
        assert counted.now_s - taken_s < INTERVAL_S
        then_s, then = next((at for at in reversed(snapshots) if taken_s - at[0] >= WINDOW_S), snapshots[0])
        assert (window is None) == (taken_s - then_s < SHORTEST_S)
        if window is not None:
            assert window.seconds == taken_s - then_s
            assert window.grew("aerie_completion_tokens_total", "a") == total - then
    assert counted.collected == len(snapshots)


VALUES = st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=13)


@given(VALUES, st.floats(0, 10))
@example([None], 5e-324)
def test_bars_stay_inside_their_chart_and_are_as_high_as_their_values(values, level):
    names = [str(number) for number in range(len(values))]
    series = [Bars("a", values, "ours", values), Bars("b", values, "theirs")]
    drawn = Seen(bar_chart("label", "axis", names, series, level))
    bars = [
        {name: float(found[name]) for name in ("x", "y", "width", "height")}
        for tag, found in drawn.elements
        if tag == "rect"
    ]
    known = [value for value in values if value is not None]
    assert len(bars) == 2 * len(known)
    for bar in bars:
        assert 0 <= bar["x"] <= bar["x"] + bar["width"] <= WIDTH
        assert 0 <= bar["y"] <= bar["y"] + bar["height"] <= HEIGHT
    heights = [bar["height"] for bar in bars[: len(known)]]
    assert sorted(heights) == [height for _, height in sorted(zip(known, heights, strict=True))]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.9, "59 s"), (61, "1 min"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")]
)
def test_durations_are_told_in_the_units_that_matter(seconds, words):
    assert duration(seconds) == words
