"""A load at a rate: requests come at random or as a trace has them, and what they come to.

    what is served -> warm up -> send when due -> a report

Owns the order of things. Refuses to own arrivals (arrivals.py), sending (open_loop.py), figures (summary.py) and their
looks (report.py).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest import files, open_loop, provenance
from loadtest.arrivals import random_arrivals, traced_arrivals
from loadtest.client import WARM_UP_TOKENS, AcceptanceFigures, Client, Sampling
from loadtest.errors import EndpointError
from loadtest.prompts import PromptSet, load
from loadtest.record import Request
from loadtest.report import Report
from loadtest.runtime import choose_model, served_by
from loadtest.summary import Distribution, Objectives, summarise

_ASKED_TOKENS = 8
"""Enough for an answer that speculated to have figures."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to send where, and how long."""

    url: str
    rate_per_s: float | None = None
    """None: as `trace` says."""
    burstiness: float = 1.0
    trace: Path | None = None
    seed: int = 0
    requests: int = 100
    time_limit_s: float = 120.0
    warm_up: int = 2
    max_tokens: int = 64
    temperature: float = 0.0
    prompts: Path | None = None
    model: str | None = None
    objectives: Objectives = field(default_factory=Objectives)
    output: Path | None = None
    timeout_s: float = 120.0


async def measure(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Report:
    """Send the load; a cancellation ends it with what was measured.

    Raises:
        BenchError: it cannot be sent.
    """
    if plan.output:
        files.require_writable(plan.output)
    prompts, due_s = load(plan.prompts), _due_s(plan)
    async with Client(plan.url, api_key=api_key, timeout_s=plan.timeout_s) as client:
        sampling = await _sampling(plan, client)
        await _warm_up(plan, client, prompts, sampling)
        progress = _Progress(plan, say)
        run = await open_loop.run(
            lambda prompt: client.chat(prompt.messages, sampling),
            prompts.prompts,
            due_s,
            open_loop.Bounds(plan.requests, plan.time_limit_s),
            progress.told,
        )
    return Report(
        provenance={
            "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
            "commit": provenance.commit(),
            "argv": provenance.arguments(argv),
            "versions": provenance.versions(),
        },
        workload=_workload(plan, prompts, sampling),
        summary=summarise(run.requests, run.wall_s, plan.objectives),
        wall_s=run.wall_s,
        late_s=Distribution.of(run.late_s),
        client_cpu_share=run.cpu_s / run.wall_s if run.wall_s > 0 else 0.0,
        interrupted=run.interrupted,
    )


def _due_s(plan: Plan) -> Iterable[float]:
    if plan.trace is not None:
        return traced_arrivals(plan.trace)
    assert plan.rate_per_s is not None, "the command asks for one of the two"
    return random_arrivals(plan.rate_per_s, burstiness=plan.burstiness, seed=plan.seed)


async def _sampling(plan: Plan, client: Client) -> Sampling:
    """What to ask for: the model, and acceptance figures in the words that the endpoint knows."""
    model = choose_model(client.url, await served_by(client), plan.model)
    plain = Sampling(model, plan.max_tokens, temperature=plan.temperature)
    for figures in (AcceptanceFigures.GATEWAY, AcceptanceFigures.SGLANG):
        asked = replace(plain, figures=figures, token_counts=True)
        if await _answers(client, replace(asked, max_tokens=_ASKED_TOKENS)):
            return asked
    return plain


async def _answers(client: Client, sampling: Sampling) -> bool:
    request = await client.chat([{"role": "user", "content": "Hello."}], sampling)
    return request.answer is not None and (
        sampling.figures is not AcceptanceFigures.GATEWAY or request.answer.acceptance is not None
    )


async def _warm_up(plan: Plan, client: Client, prompts: PromptSet, sampling: Sampling) -> None:
    """So that connections, caches and graphs of the endpoint are there; the first failure is told and ends it."""
    short = replace(sampling, max_tokens=min(WARM_UP_TOKENS, plan.max_tokens))
    asked = prompts.prompts[-plan.warm_up :] if plan.warm_up else ()
    for request in await asyncio.gather(*(client.chat(prompt.messages, short) for prompt in asked)):
        if request.failure is not None:
            raise EndpointError(f"{client.url}: does not answer: {request.failure}")


def _workload(plan: Plan, prompts: PromptSet, sampling: Sampling) -> dict[str, Any]:
    return {
        "model": sampling.model,
        "rate_per_s": plan.rate_per_s,
        "burstiness": plan.burstiness if plan.rate_per_s else None,
        "trace": plan.trace.name if plan.trace else None,
        "seed": plan.seed,
        "prompts": prompts.name,
        "prompts_sha256": prompts.sha256,
        "max_tokens": plan.max_tokens,
        "temperature": plan.temperature,
        "objectives": plan.objectives,
    }


class _Progress:
    """A line every tenth of the way."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._every = max(1, plan.requests // 10)
        self._of = plan.requests
        self._say = say
        self._ended = self._failed = 0

    def told(self, request: Request) -> None:
        """One more has ended."""
        self._ended += 1
        self._failed += request.failure is not None
        if self._ended % self._every == 0:
            failed = f", {self._failed} failed" if self._failed else ""
            self._say(f"{self._ended} of {self._of} requests have ended{failed}")
