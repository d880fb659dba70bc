"""Calibration: a baseline's throughput and step time by batch size, and what speculation gains over it.

    describe both runtimes -> refuse what cannot be compared -> at each batch size: warm up,
    rounds (baseline, speculative, baseline, ...), refuse noise -> a curve

Owns the order of things and the figures of the curve. Refuses to own requests (client.py), the loop (closed_loop.py),
its accounting (window.py) and the file (curve.py).
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from loadtest import closed_loop, curve, files, provenance, stats, window
from loadtest.client import WARM_UP_TOKENS, AcceptanceFigures, Client, Sampling
from loadtest.closed_loop import Bounds
from loadtest.curve import BaselinePoint, Curve, Speculative, SpeculativePoint, ValidFor, Workload
from loadtest.errors import CurveError, EndpointError, RequestsFailed, TooNoisy
from loadtest.prompts import PromptSet, load
from loadtest.record import Acceptance, Request
from loadtest.runtime import Runtime, choose_model, describe, require_model, require_pair

NOISE_BOUND = 0.05
"""The largest coefficient of variation between rounds that a curve may rest on."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    baseline: str
    speculative: str | None
    output: Path
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


@dataclass(frozen=True)
class Side:
    """A runtime under measurement: the baseline, or the one that speculates."""

    name: str
    client: Client
    runtime: Runtime
    sampling: Sampling


@dataclass(frozen=True)
class Rounds:
    """The figures of one side at one batch size, round by round."""

    side: Side
    batch_size: int
    figures: tuple[window.Figures, ...]

    @property
    def tokens_per_s(self) -> list[float]:
        """Of each round."""
        return [each.tokens_per_s for each in self.figures]

    @property
    def token_s(self) -> float:
        """Seconds per token of one request while all decode: the rounds' median."""
        return statistics.median(each.token_s for each in self.figures)

    @property
    def acceptance_length(self) -> float:
        """Tau over all rounds, of a side that speculates."""
        acceptance = Acceptance.total(each.acceptance for each in self.figures)
        assert acceptance is not None  # every round was looked at when it ended
        assert acceptance.length is not None
        return acceptance.length


async def calibrate(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Curve:
    """Measure a curve; nothing is written.

    Raises:
        BenchError: it cannot be measured, or not well enough.
    """
    files.require_writable(plan.output)
    prompts = load(plan.prompts)
    async with AsyncExitStack() as stack:

        async def enter(url: str) -> Client:
            return await stack.enter_async_context(Client(url, api_key=api_key, timeout_s=plan.timeout_s))

        baseline = await enter(plan.baseline)
        speculative = await enter(plan.speculative) if plan.speculative else None
        sides = await _sides(plan, baseline, speculative)
        hardware = plan.hardware or provenance.hardware(baseline.url, sides[0].runtime.device)
        measured = await _Measurement(plan, prompts, sides, say).run()
    try:
        return _curve(plan, argv, hardware, prompts, measured)
    except ValidationError as error:
        raise CurveError(f"what was measured is {curve.sentence(error)}") from error


async def _sides(plan: Plan, baseline: Client, speculative: Client | None) -> list[Side]:
    """The runtimes, described and found fit."""
    plain = await describe(baseline)
    model = choose_model(plain.url, plain.models, plan.model)
    drafting = await describe(speculative) if speculative else None
    if drafting:
        require_model(drafting.url, drafting.models, model)
    require_pair(plain, drafting, plan.batch_sizes)
    sampling = Sampling(model, plan.max_tokens, token_counts=True)
    sides = [Side("baseline", baseline, plain, sampling)]
    if speculative and drafting:
        sides.append(Side("speculative", speculative, drafting, replace(sampling, figures=AcceptanceFigures.SGLANG)))
    return sides


class _Measurement:
    """All rounds at all batch sizes."""

    def __init__(self, plan: Plan, prompts: PromptSet, sides: Sequence[Side], say: Say) -> None:
        self._plan, self._prompts, self._sides, self._say = plan, prompts.prompts, sides, say
        self._remembers: set[str] = set()

    async def run(self) -> list[list[Rounds]]:
        """By batch size, then by side."""
        return [await self._batch_size(batch_size) for batch_size in self._plan.batch_sizes]

    async def _batch_size(self, batch_size: int) -> list[Rounds]:
        needed = batch_size * (1 + self._plan.passes)
        if needed > len(self._prompts):
            self._say(
                f"batch size {batch_size}: a round asks {needed} times and there are {len(self._prompts)} prompts: "
                "the runtime may know some of them already"
            )
        for side in self._sides:
            warm_up = replace(side, sampling=replace(side.sampling, max_tokens=WARM_UP_TOKENS))
            await self._loop(warm_up, Bounds(batch_size, passes=0, time_limit_s=self._plan.time_limit_s))
        rounds = [
            [await self._round(side, batch_size, number) for side in self._sides]
            for number in range(1, self._plan.rounds + 1)
        ]
        measured = [
            Rounds(side, batch_size, figures)
            for side, figures in zip(self._sides, zip(*rounds, strict=True), strict=True)
        ]
        for each in measured:
            self._require_quiet(each)
        return measured

    async def _round(self, side: Side, batch_size: int, number: int) -> window.Figures:
        if not await side.client.flush_cache() and side.name not in self._remembers:
            self._remembers.add(side.name)
            self._say(f"{side.name}: does not flush its cache: it knows every prompt from the second round on")
        run = await self._loop(side, Bounds(batch_size, self._plan.passes, self._plan.time_limit_s))
        figures = window.figures(run)
        tau = figures.acceptance.length if figures.acceptance else None
        if tau is None and side.runtime.algorithm:
            raise EndpointError(f"{side.client.url}: tells no acceptance figures (return_spec_tokens_details)")
        self._say(
            f"batch size {batch_size}, round {number} of {self._plan.rounds}, {side.name}: "
            f"{figures.tokens_per_s:.1f} tok/s{f', tau {tau:.2f}' if tau else ''} "
            f"({figures.window_s:.1f} s; this client took {figures.client_cpu_share:.0%} of a CPU)"
        )
        return figures

    async def _loop(self, side: Side, bounds: Bounds) -> closed_loop.Run:
        run = await closed_loop.run(
            lambda prompt: side.client.chat(prompt.messages, side.sampling), self._prompts, bounds
        )
        if run.failed:
            raise RequestsFailed(_failures(side, bounds.concurrency, run.requests))
        return run

    def _require_quiet(self, rounds: Rounds) -> None:
        """Refuse rounds that differ too much, or say so."""
        variation = stats.coefficient_of_variation(rounds.tokens_per_s)
        if variation <= NOISE_BOUND:
            return
        sentence = (
            f"batch size {rounds.batch_size}, {rounds.side.name}: the rounds differ by {variation:.0%} "
            f"({', '.join(f'{each:.1f}' for each in rounds.tokens_per_s)} tok/s; coefficient of variation, "
            f"{NOISE_BOUND:.0%} at most): the machine was not quiet"
        )
        if not self._plan.allow_noise:
            raise TooNoisy(f"{sentence}; measure again when it is, or keep such figures with --allow-noise")
        self._say(f"{sentence}; kept (--allow-noise)")


def _failures(side: Side, batch_size: int, requests: Sequence[Request]) -> str:
    failed = [request.failure for request in requests if request.failure]
    return (
        f"{side.client.url}: {len(failed)} of {len(requests)} requests failed at batch size {batch_size}: {failed[0]}"
    )


def _curve(
    plan: Plan, argv: Sequence[str], hardware: str, prompts: PromptSet, measured: Sequence[Sequence[Rounds]]
) -> Curve:
    baseline = measured[0][0].side
    lengths = [tokens for sides in measured for each in sides[0].figures for tokens in each.prompt_tokens]
    return Curve(
        created=datetime.now(UTC).replace(microsecond=0),
        commit=provenance.commit(),
        argv=provenance.arguments(argv),
        versions=provenance.versions(),
        valid_for=ValidFor(
            model=baseline.sampling.model,
            sglang_version=baseline.runtime.version,
            device=baseline.runtime.device,
            hardware=hardware,
            flags=baseline.runtime.flags,
        ),
        workload=Workload(
            prompts=prompts.name,
            prompts_sha256=prompts.sha256,
            max_tokens=plan.max_tokens,
            temperature=baseline.sampling.temperature,
            mean_prompt_tokens=_rounded(statistics.fmean(lengths)),
            rounds=plan.rounds,
        ),
        baseline=tuple(_baseline_point(sides[0]) for sides in measured),
        speculative=_speculative([(sides[0], sides[1]) for sides in measured]) if len(measured[0]) > 1 else None,
    )


def _baseline_point(rounds: Rounds) -> BaselinePoint:
    throughput = stats.median_with_interval(rounds.tokens_per_s)
    return BaselinePoint(
        batch_size=rounds.batch_size,
        tokens_per_s=_rounded(throughput.value),
        low=_rounded(throughput.low),
        high=_rounded(throughput.high),
        step_s=_rounded(rounds.token_s),
    )


def _speculative(pairs: Sequence[tuple[Rounds, Rounds]]) -> Speculative:
    runtime = pairs[0][1].side.runtime
    assert runtime.algorithm
    points = tuple(_speculative_point(baseline, speculative) for baseline, speculative in pairs)
    return Speculative(algorithm=runtime.algorithm, tree=runtime.tree, points=points)


def _speculative_point(baseline: Rounds, speculative: Rounds) -> SpeculativePoint:
    ratios = [ours / theirs for ours, theirs in zip(speculative.tokens_per_s, baseline.tokens_per_s, strict=True)]
    speedup = stats.median_with_interval(ratios)
    cycle_s = speculative.acceptance_length * speculative.token_s
    return SpeculativePoint(
        batch_size=speculative.batch_size,
        tokens_per_s=_rounded(statistics.median(speculative.tokens_per_s)),
        cycle_s=_rounded(cycle_s),
        acceptance_length=_rounded(speculative.acceptance_length),
        speedup=_rounded(speedup.value),
        low=_rounded(speedup.low),
        high=_rounded(speedup.high),
        break_even_acceptance_length=_rounded(cycle_s / baseline.token_s),
    )


def _rounded(value: float) -> float:
    """Four figures: more would claim what no run can tell."""
    return float(f"{value:.4g}")
