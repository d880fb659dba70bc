"""The figures of a result that a later run is held against, cell by cell.

Owns which those are, and why one is no result. Refuses to own the verdict (verdict.py).
"""

import math
from collections.abc import Iterator
from pathlib import Path

from loadtest.comparison import ALL, Cell, Comparison, Measured
from loadtest.curve import Curve
from loadtest.document import Interval
from loadtest.load_report import LoadReport, StageReport
from loadtest.paper.results import Paper
from loadtest.reporting.latencies import NAMES, Metric, fewest
from loadtest.reporting.load_samples import StageSample, StageSamples, of_load
from loadtest.reporting.pooled import whole_sizes
from loadtest.reporting.results import Result
from loadtest.reporting.verdict import Figure
from loadtest.stats import Estimate
from loadtest.summary import PERCENTILES, Distribution

Cells = dict[str, Figure]
"""By their names."""
_Z = 1.96
"""Of a normal distribution's 95% interval."""
NOISY = "too noisy"


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
    for cell in comparison.cells:
        where = f"{cell.task}, batch size {cell.batch_size}"
        yield f"speedup, {where}", _speedup(cell)
        if cell.a.acceptance_length:
            yield f"tau, {where}", Figure(_tau(cell.a))
    if len(comparison.workload.tasks) > 1:
        whole = whole_sizes(comparison, [cell for cell in comparison.cells if cell.quiet])
        for each in comparison.overall:
            quiet = each.batch_size in whole
            name = f"speedup, {ALL}, batch size {each.batch_size}"
            yield name, Figure(_estimate(each.speedup)) if quiet else Figure(None, NOISY)


def _speedup(cell: Cell) -> Figure:
    return Figure(_estimate(cell.speedup)) if cell.quiet else Figure(None, NOISY)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.value, interval.low, interval.high)


def _tau(measured: Measured) -> Estimate:
    """With the normal 95% interval of the mean over verify passes, where they were counted by position."""
    tau, passes = measured.acceptance_length, measured.verify_passes
    assert tau is not None
    counts = measured.accepted_by_position
    if not passes or not counts:
        return Estimate(tau, tau, tau)
    # P(accepted >= n) = counts[n - 1] / passes, so E[accepted^2] is the sum of (2 n - 1) P(accepted >= n)
    mean = sum(counts) / passes
    square = sum((2 * place - 1) * count for place, count in enumerate(counts, 1)) / passes
    spread = _Z * math.sqrt(max(0.0, square - mean * mean) / passes)
    return Estimate(tau, max(1.0, tau - spread), tau + spread)


def _of_curve(curve: Curve) -> Iterator[tuple[str, Figure]]:
    for point in curve.baseline:
        where = f"batch size {point.batch_size}"
        yield f"baseline tok/s, {where}", Figure(Estimate(point.tokens_per_s, point.low, point.high))
    for gain in curve.speculative.points if curve.speculative else ():
        where = f"batch size {gain.batch_size}"
        yield f"speedup, {where}", Figure(Estimate(gain.speedup, gain.low, gain.high))
        tau = gain.acceptance_length
        yield f"tau, {where}", Figure(Estimate(tau, tau, tau))


def _of_load(report: LoadReport, samples: StageSamples) -> Iterator[tuple[str, Figure]]:
    for stage in report.stages:
        fault = "partial" if stage.partial else ""
        for name, figure in _of_stage(stage, samples.get(stage.label)):
            yield f"{name}, {stage.label}", Figure(None, fault) if fault else figure


def _of_stage(stage: StageReport, sample: StageSample | None) -> Iterator[tuple[str, Figure]]:
    told = stage.summary
    if told.good is not None:
        yield "good/s", _goodput(stage)
    if tau := told.acceptance_length:
        yield "tau", Figure((sample and sample.acceptance_length) or Estimate(tau, tau, tau))
    for metric in NAMES:
        yield from ((name, Figure(found, higher_is_better=False)) for name, found in _latencies(stage, sample, metric))


def _latencies(stage: StageReport, sample: StageSample | None, metric: Metric) -> Iterator[tuple[str, Estimate]]:
    """Those percentiles that have an interval, in milliseconds; without the sample their values alone."""
    latency: Distribution | None = getattr(stage.summary, metric)
    values = sample.latencies.get(metric) if sample else None
    for percent in judged_percentiles(stage) if latency else ():
        assert latency is not None
        value = latency.percentiles[percent]
        found = values.estimate(percent) if values else Estimate(value, value, value)
        in_ms = Estimate(found.value * 1000, found.low * 1000, found.high * 1000)
        yield f"{metric.removesuffix('_s').upper()} p{percent} ms", in_ms


def judged_percentiles(stage: StageReport) -> list[int]:
    """Those for which enough requests were answered."""
    return [percent for percent in PERCENTILES if stage.summary.answered >= fewest(percent)]


def _goodput(stage: StageReport) -> Figure:
    """With Wilson's 95% interval of the share that kept their objectives."""
    told = stage.summary
    count, good = told.requests - told.left, told.good
    assert good is not None
    if not count or stage.wall_s <= 0:
        return Figure(None, "nothing was answered")
    share, square = good / count, _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    spread = _Z * math.sqrt(share * (1 - share) / count + square / count / 4) / (1 + square)
    low, high = (end * count / stage.wall_s for end in (middle - spread, middle + spread))
    value = good / stage.wall_s
    return Figure(Estimate(value, max(0.0, min(low, value)), max(high, value)))
