"""The report of a load, `aerie-load/1`: what every stage came to, whole or as far as it came.

Owns the fields, and when this client was too slow to be believed. Refuses to own the figures (summary.py, window.py)
and their looks (load_text.py).
"""

from typing import Annotated, Literal

from pydantic import Field

from loadtest.document import Count, Document, NotNegative, Part, Positive, Sha256, Words
from loadtest.stage import FAILURES, Measured, Steady
from loadtest.summary import Distribution, Objectives, Summary, summarise

LATE_BOUND_S = 0.010
"""How late the 99th percentile of requests may be sent before this client is the bottleneck."""
CPU_BOUND = 0.8
"""The share of a CPU above which it is."""


class Workload(Part):
    """What was asked, of which model."""

    model: Words
    prompts: Words
    prompts_sha256: Sha256
    system: str | None
    multi_turn: bool
    max_tokens: Count
    temperature: NotNegative
    seed: int
    burstiness: Positive | None
    """None: no rate."""
    trace: Words | None
    leave: NotNegative
    """The share of clients that leave."""
    objectives: Objectives


class StageReport(Part):
    """One rate, trace or number of workers."""

    label: Words
    partial: bool
    rate_per_s: Positive | None
    concurrency: Count | None
    ramp_s: NotNegative
    ramp_requests: int
    """Due in the ramp: in the raw file, in no figure."""
    wall_s: NotNegative
    summary: Summary
    tasks: dict[str, Summary]
    """The same of each task."""
    steady: Steady | None
    late_s: Distribution | None
    """How much later than due this client sent; None: of workers."""
    client_cpu_share: NotNegative
    warnings: tuple[Words, ...]

    @classmethod
    def of(cls, measured: Measured, objectives: Objectives) -> "StageReport":
        """The figures of what was measured."""
        late_s = Distribution.of(asked.late_s for asked in measured.asked)
        tasks = sorted({asked.prompt.task for asked in measured.asked})
        return cls(
            label=measured.shape.label,
            partial=not measured.whole,
            rate_per_s=measured.shape.rate_per_s,
            concurrency=measured.shape.concurrency,
            ramp_s=measured.shape.ramp_s,
            ramp_requests=measured.ramp_requests,
            wall_s=measured.wall_s,
            summary=_summary(measured, None, objectives),
            tasks={task: _summary(measured, task, objectives) for task in tasks},
            steady=measured.steady if isinstance(measured.steady, Steady) else None,
            late_s=late_s,
            client_cpu_share=measured.client_cpu_share,
            warnings=tuple(_warnings(measured, late_s)),
        )


def _summary(measured: Measured, task: str | None, objectives: Objectives) -> Summary:
    """Of a task, or of all."""
    requests = [asked.request for asked in measured.asked if task is None or asked.prompt.task == task]
    return summarise(requests, measured.wall_s, objectives)


def _warnings(measured: Measured, late_s: Distribution | None) -> list[str]:
    told = []
    if late_s is not None and late_s.percentiles[99] > LATE_BOUND_S:
        late_ms = late_s.percentiles[99] * 1000
        told.append(f"this client was late (p99 {late_ms:.0f} ms): it was a bottleneck, measure from another machine")
    if measured.client_cpu_share > CPU_BOUND:
        share = f"{measured.client_cpu_share:.0%} of a CPU"
        told.append(f"this client took {share}: it was a bottleneck, measure from another machine")
    if measured.gave_up:
        told.append(f"more than {FAILURES} requests failed: the workers gave up")
    if isinstance(measured.steady, str) and measured.whole:
        told.append(f"no steady window: {measured.steady}")
    if not measured.asked and measured.ramp_requests:
        told.append("nothing was due after the ramp: raise --requests or lower --ramp")
    return told


class LoadReport(Document):
    """The file."""

    format: Literal["aerie-load/1"] = "aerie-load/1"
    partial: bool
    """It was interrupted, or the raw file took no more; what is here was measured."""
    workload: Workload
    stages: Annotated[tuple[StageReport, ...], Field(min_length=1)]
