"""Calibration: a baseline's throughput and step time by batch size, and what speculation gains over it.

    describe both runtimes -> refuse what cannot be compared -> at each batch size: rounds in turns,
    refuse noise -> a curve

Owns what may be compared, how restless a machine may be, and the figures of the curve. Refuses to own the rounds
(paired.py) and the file (curve.py).
"""

import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from loadtest import files, provenance, stats
from loadtest.asking import Say
from loadtest.client import AcceptanceFigures, Client, Sampling
from loadtest.curve import BaselinePoint, Curve, Speculative, SpeculativePoint, ValidFor, Workload
from loadtest.document import first_fault
from loadtest.errors import CurveError, TooNoisy
from loadtest.launch import Endpoint, started
from loadtest.paired import Measurement, Rounds, Schedule, Side, speedups
from loadtest.prompts import PromptSet, load
from loadtest.runtime import Runtime, choose_model, describe, require_model, require_pair
from loadtest.stats import rounded

NOISE_BOUND = 0.05
"""The largest coefficient of variation between rounds that a curve may rest on."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    baseline: str
    """A side of a comparison (launch.py), as `speculative`."""
    speculative: str | None
    output: Path
    profile: str | None = None
    """Of runtimes that are started here."""
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 3
    passes: int = 3
    max_tokens: int = 64
    prompts: Path | None = None
    model: str | None = None
    hardware: str | None = None
    allow_noise: bool = False
    time_limit_s: float = 120.0
    timeout_s: float = 120.0


async def calibrate(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Curve:
    """Measure a curve; nothing is written.

    Raises:
        BenchError: it cannot be measured, or not well enough.
    """
    files.require_writable(plan.output)
    prompts = load(plan.prompts)
    async with AsyncExitStack() as stack:

        async def enter(text: str) -> Client:
            url = await stack.enter_async_context(started(Endpoint.parse(text), plan.profile, say))
            return await stack.enter_async_context(Client(url, api_key=api_key, timeout_s=plan.timeout_s))

        baseline = await enter(plan.baseline)
        speculative = await enter(plan.speculative) if plan.speculative else None
        model, plain, drafting = await _fit(plan, baseline, speculative)
        hardware = plan.hardware or provenance.hardware(baseline.url, plain.device)
        sampling = Sampling(model, plan.max_tokens, token_counts=True)
        sides = [Side("baseline", baseline, sampling, tells_acceptance=False)]
        if speculative:
            asking = replace(sampling, figures=AcceptanceFigures.SGLANG)
            sides.append(Side("speculative", speculative, asking, tells_acceptance=True))
        measurement = Measurement(sides, Schedule(plan.rounds, plan.passes, plan.time_limit_s), say)
        measured = [
            [_quiet(plan, rounds, say) for rounds in await measurement.at(batch_size, prompts)]
            for batch_size in plan.batch_sizes
        ]
    try:
        return Curve(
            created=datetime.now(UTC).replace(microsecond=0),
            commit=provenance.commit(),
            argv=provenance.arguments(argv),
            versions=provenance.versions(),
            valid_for=ValidFor(
                model=model,
                sglang_version=plain.version,
                device=plain.device,
                hardware=hardware,
                flags=plain.flags,
            ),
            workload=_workload(plan, prompts, measured),
            baseline=tuple(_baseline_point(rounds[0]) for rounds in measured),
            speculative=_speculative(drafting, measured) if drafting else None,
        )
    except ValidationError as error:
        raise CurveError(f"what was measured is not a baseline curve ({first_fault(error)})") from error


async def _fit(plan: Plan, baseline: Client, speculative: Client | None) -> tuple[str, Runtime, Runtime | None]:
    """The model, and the runtimes, described and found fit."""
    plain = await describe(baseline)
    model = choose_model(plain.url, plain.models, plan.model)
    drafting = await describe(speculative) if speculative else None
    if drafting:
        require_model(drafting.url, drafting.models, model)
    require_pair(plain, drafting, plan.batch_sizes)
    return model, plain, drafting


def _quiet(plan: Plan, rounds: Rounds, say: Say) -> Rounds:
    """Refuse rounds that differ too much, or say so."""
    variation = stats.coefficient_of_variation(rounds.tokens_per_s)
    if variation <= NOISE_BOUND:
        return rounds
    sentence = (
        f"batch size {rounds.batch_size}, {rounds.side.name}: the rounds differ by {variation:.0%} "
        f"({', '.join(f'{each:.1f}' for each in rounds.tokens_per_s)} tok/s; coefficient of variation, "
        f"{NOISE_BOUND:.0%} at most): the machine was not quiet"
    )
    if not plan.allow_noise:
        raise TooNoisy(f"{sentence}; measure again when it is, or keep such figures with --allow-noise")
    say(f"{sentence}; kept (--allow-noise)")
    return rounds


def _workload(plan: Plan, prompts: PromptSet, measured: Sequence[Sequence[Rounds]]) -> Workload:
    lengths = [tokens for rounds in measured for turn in rounds[0].turns for tokens in turn.figures.prompt_tokens]
    return Workload(
        prompts=prompts.name,
        prompts_sha256=prompts.sha256,
        max_tokens=plan.max_tokens,
        temperature=0.0,
        mean_prompt_tokens=rounded(statistics.fmean(lengths)),
        rounds=plan.rounds,
    )


def _baseline_point(rounds: Rounds) -> BaselinePoint:
    throughput = stats.median_with_interval(rounds.tokens_per_s)
    return BaselinePoint(
        batch_size=rounds.batch_size,
        tokens_per_s=rounded(throughput.value),
        low=rounded(throughput.low),
        high=rounded(throughput.high),
        step_s=rounded(rounds.token_s),
    )


def _speculative(runtime: Runtime, measured: Sequence[Sequence[Rounds]]) -> Speculative:
    assert runtime.algorithm
    points = tuple(_speculative_point(*rounds) for rounds in measured)
    return Speculative(algorithm=runtime.algorithm, tree=runtime.tree, points=points)


def _speculative_point(baseline: Rounds, speculative: Rounds) -> SpeculativePoint:
    speedup = stats.median_with_interval(speedups(speculative, baseline))
    tau = speculative.acceptance.length if speculative.acceptance else None
    assert tau is not None  # every round was looked at when it ended
    cycle_s = tau * speculative.token_s
    return SpeculativePoint(
        batch_size=speculative.batch_size,
        tokens_per_s=rounded(statistics.median(speculative.tokens_per_s)),
        cycle_s=rounded(cycle_s),
        acceptance_length=rounded(tau),
        speedup=rounded(speedup.value),
        low=rounded(speedup.low),
        high=rounded(speedup.high),
        break_even_acceptance_length=rounded(cycle_s / baseline.token_s),
    )
