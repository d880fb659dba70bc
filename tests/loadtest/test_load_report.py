"""A stage's figures, and what is said of a client that was too slow to be believed."""

import pytest

from loadtest.asking import Asked
from loadtest.load_report import StageReport
from loadtest.prompts import Prompt
from loadtest.record import Answer, Arrival, Failure, Request
from loadtest.stage import FAILURES, Measured, Shape, Steady
from loadtest.summary import Objectives

PROMPT = Prompt(("Hello",), task="chat")
ANSWERED = Request(1.0, 2.0, Answer((Arrival(1.5, 1), Arrival(2.0, 8)), 34, 8))
FAILED = Request(1.0, 2.0, Failure("broken", "scripted"))


def stage(request=ANSWERED, count=2, *, late_s=0.0, cpu=0.1, steady=None, concurrency=None, interrupted=False, ramp=0):
    rate_per_s = None if concurrency else 2.0
    shape = Shape(100, 60.0, rate_per_s=rate_per_s, concurrency=concurrency)
    asked = (Asked(PROMPT, request, None if concurrency else late_s),) * count
    measured = Measured(shape, asked, ramp, 2.0, cpu, steady, interrupted, failure=None)
    return StageReport.of(measured, Objectives())


def test_a_client_that_kept_up_is_not_warned_of():
    assert stage().warnings == stage(concurrency=2, steady=Steady(10.0, 0.1, 1.0)).warnings == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"late_s": 0.011}, "was late (p99 11 ms)"),
        ({"cpu": 0.81}, "took 81% of a CPU"),
        ({"count": 0, "ramp": 5}, "nothing was due after the ramp"),
        ({"concurrency": 2, "steady": "the time was up"}, "no steady window: the time was up"),
        ({"concurrency": 2, "request": FAILED, "count": FAILURES + 1}, "the workers gave up"),
    ],
)
def test_what_makes_figures_doubtful_is_said(fields, words):
    (warning,) = stage(**fields).warnings
    assert words in warning


def test_what_was_cut_short_is_partial_and_owes_no_steady_window():
    cut = stage(concurrency=2, steady="the time was up", interrupted=True)
    assert cut.partial
    assert not cut.warnings


def test_figures_are_told_of_all_and_of_each_task():
    told = stage()
    assert told.summary == told.tasks["chat"]
    assert (told.summary.answered, told.summary.requests_per_s, told.rate_per_s) == (2, 1.0, 2.0)
