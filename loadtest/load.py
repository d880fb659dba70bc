"""A load: at a rate, as a trace has it or from so many workers, in one stage or several, and what it comes to.

    what is served -> warm up -> stage by stage: send, hear, sum up -> a report, whole or partial

Owns the order of things. Refuses to own prompts (prompts/), a stage (stage.py), the fields (load_report.py) and their
looks (load_text.py).
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest import files, provenance
from loadtest.arrivals import traced_arrivals
from loadtest.asking import Say
from loadtest.client import WARM_UP_TOKENS, Client, Sampling
from loadtest.errors import EndpointError, OutputError
from loadtest.load_report import LoadReport, StageReport, Workload
from loadtest.negotiation import negotiated
from loadtest.prompts import PromptSet, PromptSource
from loadtest.prompts.source import leaving
from loadtest.raw import RawFile, raw_file
from loadtest.recorder import Recorder
from loadtest.runtime import choose_model, served_by
from loadtest.stage import Measured, Shape, Stage
from loadtest.summary import Objectives

REQUESTS = 100
"""Of a stage, where nobody says how many or how long."""


@dataclass(frozen=True)
class Plan:
    """What to send where, and how long; one of rates, concurrencies and trace is there."""

    url: str
    rates_per_s: tuple[float, ...] = ()
    """A stage each."""
    concurrencies: tuple[int, ...] = ()
    """A stage each."""
    trace: Path | None = None
    burstiness: float = 1.0
    ramp_s: float = 0.0
    """At the beginning of each stage, not measured."""
    stage_s: float | None = None
    """Of each stage after its ramp; None: the requests or the time limit end it."""
    requests: int | None = None
    time_limit_s: float = 120.0
    seed: int = 0
    leave: float = 0.0
    """The share of clients that leave in the middle of an answer."""
    multi_turn: bool = False
    source: PromptSource = field(default_factory=PromptSource)
    warm_up: int = 2
    max_tokens: int = 64
    temperature: float = 0.0
    model: str | None = None
    objectives: Objectives = field(default_factory=Objectives)
    raw: Path | None = None
    output: Path | None = None
    timeout_s: float = 120.0

    def shapes(self) -> Iterator[Shape]:
        """Of the stages.

        Raises:
            TraceError: the trace cannot be read.
        """
        timed = self.stage_s is not None
        base = Shape(
            requests=self.requests or (sys.maxsize if timed or self.trace else REQUESTS),
            time_limit_s=self.ramp_s + self.stage_s if self.stage_s is not None else self.time_limit_s,
            burstiness=self.burstiness,
            seed=self.seed,
            ramp_s=self.ramp_s,
        )
        if self.trace is not None:
            yield replace(base, times_s=traced_arrivals(self.trace))
        yield from (replace(base, rate_per_s=rate) for rate in self.rates_per_s)
        yield from (replace(base, concurrency=concurrency) for concurrency in self.concurrencies)


@dataclass(frozen=True)
class Outcome:
    """A report, and what ended it before its time."""

    report: LoadReport
    failure: OutputError | None
    interrupted: bool


async def measure(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Outcome:
    """Send the load; a cancellation ends it with what was measured.

    Raises:
        BenchError: it cannot be sent.
    """
    for path in filter(None, (plan.output, plan.raw)):
        files.require_writable(path)
    shapes, prompts = tuple(plan.shapes()), plan.source.prompts()
    for shape in shapes:
        _say_what_is_cut(shape, say)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(plan.url, api_key=api_key, timeout_s=plan.timeout_s))
        model = choose_model(client.url, await served_by(client), plan.model)
        sampling = await negotiated(client, Sampling(model, plan.max_tokens, temperature=plan.temperature))
        await _warm_up(plan, client, prompts, sampling)
        raw = stack.enter_context(raw_file(plan.raw))
        measured = await _Load(plan, client, sampling, prompts, raw, say).run(shapes)
    report = LoadReport(
        created=datetime.now(UTC).replace(microsecond=0),
        commit=provenance.commit(),
        argv=provenance.arguments(argv),
        versions=provenance.versions(),
        partial=not measured[-1].whole,
        workload=_workload(plan, prompts, sampling),
        stages=tuple(StageReport.of(each, plan.objectives) for each in measured),
    )
    return Outcome(report, measured[-1].failure, measured[-1].interrupted)


def _say_what_is_cut(shape: Shape, say: Say) -> None:
    """A time limit that ends sending before the count does."""
    last_s = shape.times_s[min(shape.requests, len(shape.times_s)) - 1] if shape.times_s else None
    if shape.rate_per_s is not None and shape.requests != sys.maxsize:
        last_s = shape.ramp_s + shape.requests / shape.rate_per_s
    if last_s is not None and last_s > shape.time_limit_s:
        limit = f"nothing is sent after {shape.time_limit_s:.0f} s (--time-limit)"
        say(f"{shape.label}: would last about {last_s:.0f} s, and {limit}")


class _Load:
    """The stages, one after another; each asks the same prompts, of an endpoint that forgot them if it can."""

    def __init__(
        self, plan: Plan, client: Client, sampling: Sampling, prompts: PromptSet, raw: RawFile, say: Say
    ) -> None:
        self._plan, self._client, self._sampling, self._prompts = plan, client, sampling, prompts
        self._raw, self._say = raw, say

    async def run(self, shapes: Sequence[Shape]) -> list[Measured]:
        measured: list[Measured] = []
        for shape in shapes:
            try:
                if len(shapes) > 1:
                    await self._forget(first=not measured)
            except asyncio.CancelledError:  # between two stages
                if not measured:
                    raise
                measured[-1] = replace(measured[-1], interrupted=True)
                break
            measured.append(await self._stage(shape))
            if not measured[-1].whole:
                break
        return measured

    async def _stage(self, shape: Shape) -> Measured:
        recorder = Recorder(shape.label, self._raw)
        stage = Stage(self._client, self._sampling, recorder, multi_turn=self._plan.multi_turn)
        prompts = leaving(self._prompts.prompts, self._plan.leave, self._plan.seed)
        return await stage.run(shape, prompts, self._say)

    async def _forget(self, *, first: bool) -> None:
        if not await self._client.flush_cache() and first:
            self._say("the endpoint does not flush its cache: it knows the prompts from the second stage on")


async def _warm_up(plan: Plan, client: Client, prompts: PromptSet, sampling: Sampling) -> None:
    """So that connections, caches and graphs of the endpoint are there; the first failure is told and ends it."""
    short = replace(sampling, max_tokens=min(WARM_UP_TOKENS, plan.max_tokens))
    asked = prompts.prompts[-plan.warm_up :] if plan.warm_up else ()
    for request in await asyncio.gather(*(client.chat(prompt.messages, short) for prompt in asked)):
        if request.failure is not None:
            raise EndpointError(f"{client.url}: does not answer: {request.failure}")


def _workload(plan: Plan, prompts: PromptSet, sampling: Sampling) -> Workload:
    return Workload(
        model=sampling.model,
        prompts=prompts.name,
        prompts_sha256=prompts.sha256,
        system=plan.source.system,
        multi_turn=plan.multi_turn,
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        seed=plan.seed,
        burstiness=plan.burstiness if plan.rates_per_s else None,
        trace=plan.trace.name if plan.trace else None,
        leave=plan.leave,
        objectives=plan.objectives,
    )
