"""The figures of a result that a later run is held against, cell by cell.

Owns which those are, and why one is no result. Refuses to own the verdict (verdict.py).
"""

import math
from collections.abc import Iterator
from pathlib import Path

from loadtest.comparison import ALL, Comparison, Measured
from loadtest.curve import Curve
from loadtest.document import Interval
from loadtest.load_report import LoadReport, StageReport
from loadtest.paper.results import Paper
from loadtest.reporting.latencies import NAMES, Metric
from loadtest.reporting.load_samples import StageSample, StageSamples, of_load
from loadtest.reporting.pooled import whole_sizes
from loadtest.reporting.reservations import ENOUGH_ROUNDS
from loadtest.reporting.results import Result
from loadtest.reporting.verdict import Figure
from loadtest.stats import Estimate, Z, fewest, wilson
from loadtest.summary import PERCENTILES, Distribution

Cells = dict[str, Figure]
"""By their names."""
_NOISY = Figure(None, "too noisy")
_NO_RAW = "no --raw"


def cells(result: Result, raw: Path | None = None) -> Cells:
    """Of any result; a load's latencies have intervals where its raw lines are there.

    Raises:
        DocumentError: the raw lines are not this load's.
    """
    match result:
        case Comparison():
            return dict(_of_comparison(result))
        case Curve():
            return dict(_of_curve(result))
        case LoadReport():
            return dict(_of_load(result, of_load(raw, result) if raw else {}))
        case Paper():
            return {
                f"{each.name}, {each.method}, temperature {each.temperature:g}: {name}": figure
                for each in result.experiments
                for name, figure in _of_comparison(each.comparison)
            }


def _of_comparison(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    work = comparison.workload
    for cell in comparison.cells:
        where = f"{cell.task}, batch size {cell.batch_size}"
        yield f"speedup, {where}", _timing(cell.speedup, work.rounds) if cell.quiet else _NOISY
        if cell.a.acceptance_length:
            yield f"tau, {where}", _tau(cell.a, work.repeats)
    if len(work.tasks) > 1:
        whole = whole_sizes(comparison, [cell for cell in comparison.cells if cell.quiet])
        for each in comparison.overall:
            quiet = each.batch_size in whole
            name = f"speedup, {ALL}, batch size {each.batch_size}"
            yield name, _timing(each.speedup, work.rounds) if quiet else _NOISY


def _timing(interval: Interval | Estimate, rounds: int) -> Figure:
    return Figure(Estimate(interval.value, interval.low, interval.high), covered=rounds >= ENOUGH_ROUNDS)


def _alone(value: float) -> Figure:
    """Without an interval."""
    return Figure(Estimate(value, value, value), covered=False)


def _tau(measured: Measured, repeats: int) -> Figure:
    """With the normal 95% interval of the mean over verify passes that differ, where positions were counted."""
    tau, passes = measured.acceptance_length, measured.verify_passes
    assert tau is not None
    counts = measured.accepted_by_position
    if not passes or not counts:
        return _alone(tau)
    # P(accepted >= n) = counts[n - 1] / passes, so E[accepted^2] is the sum of (2 n - 1) P(accepted >= n)
    mean = sum(counts) / passes
    square = sum((2 * place - 1) * count for place, count in enumerate(counts, 1)) / passes
    spread = Z * math.sqrt(max(0.0, square - mean * mean) * repeats / passes)
    return Figure(Estimate(tau, max(1.0, tau - spread), tau + spread))


def _of_curve(curve: Curve) -> Iterator[tuple[str, Figure]]:
    for point in curve.baseline:
        where = f"batch size {point.batch_size}"
        throughput = Estimate(point.tokens_per_s, point.low, point.high)
        yield f"baseline tok/s, {where}", _timing(throughput, curve.workload.rounds)
    for gain in curve.speculative.points if curve.speculative else ():
        where = f"batch size {gain.batch_size}"
        yield f"speedup, {where}", _timing(Estimate(gain.speedup, gain.low, gain.high), curve.workload.rounds)
        yield f"tau, {where}", _alone(gain.acceptance_length)


def _of_load(report: LoadReport, samples: StageSamples) -> Iterator[tuple[str, Figure]]:
    for stage in report.stages:
        fault = "partial" if stage.partial else ""
        for name, figure in _of_stage(stage, samples.get(stage.label)):
            yield f"{name}, {stage.label}", Figure(None, fault) if fault else figure


def _of_stage(stage: StageReport, sample: StageSample | None) -> Iterator[tuple[str, Figure]]:
    told = stage.summary
    if told.good is not None:
        yield "good %", _goodput(stage)
    if tau := told.acceptance_length:
        found = sample.acceptance_length if sample else None
        yield "tau", Figure(found) if found else Figure(Estimate(tau, tau, tau), _NO_RAW)
    for metric in NAMES:
        yield from _latencies(stage, sample, metric)


def _latencies(stage: StageReport, sample: StageSample | None, metric: Metric) -> Iterator[tuple[str, Figure]]:
    """Those percentiles that may have an interval, in milliseconds; without the sample none has, nor is it judged."""
    latency: Distribution | None = getattr(stage.summary, metric)
    values = sample.latencies.get(metric) if sample else None
    for percent in judged_percentiles(stage) if latency else ():
        assert latency is not None
        value = latency.percentiles[percent]
        found = values.estimate(percent) if values else Estimate(value, value, value)
        in_ms = Estimate(found.value * 1000, found.low * 1000, found.high * 1000)
        fault = "" if values else _NO_RAW
        yield f"{metric.removesuffix('_s').upper()} p{percent} ms", Figure(in_ms, fault, higher_is_better=False)


def judged_percentiles(stage: StageReport) -> list[int]:
    """Those for which enough requests were answered."""
    return [percent for percent in PERCENTILES if stage.summary.answered >= fewest(percent)]


def _goodput(stage: StageReport) -> Figure:
    """The share that kept the objectives, not their rate: that has the chance of arrivals in it."""
    told = stage.summary
    share = told.good_share
    if share is None:
        return Figure(None, "nothing was answered")
    low, high = wilson(share, told.requests - told.left)
    return Figure(Estimate(share * 100, low * 100, high * 100))
