"""A load's stages as its raw lines have them: latencies and acceptance of every request.

Owns leaving out what the report leaves out (the ramp, and requests that were not answered), and finding out whether
the lines are the report's.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import DocumentError
from loadtest.load_report import LoadReport, StageReport
from loadtest.reporting.latencies import NAMES, Metric, RawLine, Sample, raw_lines
from loadtest.stats import Estimate, Z
from loadtest.summary import Distribution


@dataclass(frozen=True)
class StageSample:
    """What was answered in a stage."""

    latencies: dict[Metric, Sample]
    acceptance_length: Estimate | None


StageSamples = dict[str, StageSample]
"""By the stages' labels."""


def of_load(path: Path, report: LoadReport) -> StageSamples:
    """From the raw lines that were written with the report.

    Raises:
        DocumentError: the lines cannot be read, or are of another load.
    """
    by_stage: dict[str, list[RawLine]] = defaultdict(list)
    for line in raw_lines(path):
        by_stage[line.stage or ""].append(line)
    found: StageSamples = {}
    for stage in report.stages:
        sent = sorted(by_stage[stage.label], key=lambda line: line.sent_s)
        answered = [line for line in sent[stage.ramp_requests :] if line.answered]
        if not _belong(answered, stage):
            raise DocumentError(f"{path}: its requests of stage {stage.label} are not those of the report")
        samples = {metric: Sample.of(value for line in answered for value in line.values(metric)) for metric in NAMES}
        known = {metric: sample for metric, sample in samples.items() if sample}
        found[stage.label] = StageSample(known, _acceptance_length(answered))
    return found


def _belong(answered: Sequence[RawLine], stage: StageReport) -> bool:
    told = Distribution.of(line.e2e_s for line in answered)
    if told is None or stage.summary.e2e_s is None:
        return told is stage.summary.e2e_s
    return len(answered) == stage.summary.answered and told.percentiles == stage.summary.e2e_s.percentiles


def _acceptance_length(answered: Sequence[RawLine]) -> Estimate | None:
    """Tau with its normal 95% interval over requests: passes of one request are alike."""
    known = [(line.correct_drafts or 0, line.verify_passes) for line in answered if line.verify_passes]
    total = sum(passes for _, passes in known)
    if not total:
        return None
    ratio = sum(correct for correct, _ in known) / total
    spread = Z * math.sqrt(sum((correct - ratio * passes) ** 2 for correct, passes in known)) / total
    return Estimate(1 + ratio, max(1.0, 1 + ratio - spread), 1 + ratio + spread)
