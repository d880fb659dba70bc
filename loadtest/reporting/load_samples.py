"""Latencies of a load's stages, from every request of its raw lines.

Owns leaving out what the report leaves out: the ramp, and requests that were not answered.
"""

from collections import defaultdict
from pathlib import Path

from loadtest.errors import DocumentError
from loadtest.load_report import LoadReport
from loadtest.reporting.latencies import NAMES, Metric, RawLine, Sample, raw_lines

StageSamples = dict[tuple[str, Metric], Sample]
"""By a stage's label and a latency."""


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
        if len(answered) != stage.summary.answered:
            raise DocumentError(
                f"{path}: has {len(answered)} answers of stage {stage.label} and not {stage.summary.answered}: not "
                "this load's raw lines"
            )
        for metric in NAMES:
            sample = Sample.of(value for line in answered for value in line.values(metric))
            if sample:
                found[stage.label, metric] = sample
    return found
