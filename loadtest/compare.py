"""Paired runs: what one side does beside another, by task and batch size, on the same machine in turns.

    start what has to be started -> describe both -> do they write the same? -> at each batch size and task: rounds
    in turns, how restless was the machine? -> a comparison, whole or partial

Owns the order of things and the figures of the comparison. Refuses to own processes (launch.py), the rounds
(paired.py), texts (same_text.py) and the file (comparison.py).
"""

import asyncio
import statistics
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest import files, provenance, same_text, stats
from loadtest.asking import Say
from loadtest.client import AcceptanceFigures, Client, Sampling
from loadtest.comparison import QUANTILES, Cell, Comparison, Described, Measured, Overall, SameText, Task, Workload
from loadtest.document import Interval
from loadtest.errors import BenchError, EndpointError, PromptsError
from loadtest.launch import Endpoint, started
from loadtest.negotiation import negotiated
from loadtest.paired import Measurement, Round, Rounds, Schedule, Side, speedups
from loadtest.prompts import PromptSet, load
from loadtest.raw import RawFile, raw_file
from loadtest.runtime import Runtime, choose_model, describe, require_room, served_by
from loadtest.stats import rounded

NOISE_BOUND = 0.1
"""The largest coefficient of variation of the rounds' ratios that a speedup may rest on."""
SEED = 7
"""Of sampling, the same on both sides, where there is something to sample."""


@dataclass(frozen=True)
class Plan:
    """What to compare, and how long."""

    a: str
    b: str
    batch_sizes: tuple[int, ...] = (1, 4, 8)
    prompts: tuple[Path, ...] = ()
    """A task each; without one, the bundled prompts."""
    rounds: int = 6
    passes: int = 2
    max_tokens: int = 64
    temperature: float = 0.0
    same_text: int = 8
    """Prompts of each task whose greedy answers are compared."""
    profile: str | None = None
    """Of runtimes that are started here."""
    model: str | None = None
    hardware: str | None = None
    allow_noise: bool = False
    raw: Path | None = None
    output: Path | None = None
    time_limit_s: float = 120.0
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """A comparison, and what ended it before its time."""

    comparison: Comparison
    failure: BenchError | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class Pair:
    """Both sides, found fit."""

    model: str
    hardware: str
    sides: tuple[Side, Side]
    described: tuple[Described, Described]
    differences: tuple[str, ...]


async def compare(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Outcome:
    """Measure; a cancellation or a failure keeps the cells that are whole.

    Raises:
        BenchError: before the first cell.
    """
    for path in filter(None, (plan.output, plan.raw)):
        files.require_writable(path)
    tasks = _tasks(plan.prompts)
    async with AsyncExitStack() as stack:
        pair = await _pair(plan, stack, say, api_key)
        raw = stack.enter_context(raw_file(plan.raw))
        return await _Comparing(plan, argv, say, tasks, pair, raw).run()


def _tasks(paths: Sequence[Path]) -> list[PromptSet]:
    """A file each; without one, the bundled prompts."""
    tasks = [load(path) for path in paths] or [load(None)]
    names = [task.task for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptsError(f"two files are the task {twice}: a task is told by its file's name; rename one")
    return tasks


async def _pair(plan: Plan, stack: AsyncExitStack, say: Say, api_key: str | None) -> Pair:
    endpoints = [Endpoint.parse(text) for text in (plan.a, plan.b)]
    urls = [await stack.enter_async_context(started(endpoint, plan.profile, say)) for endpoint in endpoints]
    clients = [await stack.enter_async_context(Client(url, api_key=api_key, timeout_s=plan.timeout_s)) for url in urls]
    model = choose_model(clients[1].url, await served_by(clients[1]), plan.model)
    runtimes = [await _described(client, model, plan.batch_sizes) for client in clients]
    return Pair(
        model,
        plan.hardware or provenance.hardware(clients[1].url, _device(clients[1].url, runtimes[1])),
        (
            await _side("a", clients[0], runtimes[0], plan, model),
            await _side("b", clients[1], runtimes[1], plan, model),
        ),
        (_description(plan.a, runtimes[0]), _description(plan.b, runtimes[1])),
        tuple(_differences(*runtimes)),
    )


async def _described(client: Client, model: str, batch_sizes: Sequence[int]) -> Runtime | None:
    """None: it speaks OpenAI's API, but does not describe itself as SGLang does."""
    choose_model(client.url, await served_by(client), model)
    try:
        runtime = await describe(client)
    except EndpointError:
        return None
    require_room(runtime, batch_sizes)
    return runtime


def _device(url: str, runtime: Runtime | None) -> str:
    if runtime is None:
        raise EndpointError(f"{url}: does not describe itself: say what it runs on with --hardware")
    return runtime.device


async def _side(name: str, client: Client, runtime: Runtime | None, plan: Plan, model: str) -> Side:
    seed = SEED if plan.temperature else None
    plain = Sampling(model, plan.max_tokens, temperature=plan.temperature, token_counts=True, seed=seed)
    if runtime is None:
        return Side(name, client, await negotiated(client, plain), tells_acceptance=False)
    drafts = runtime.algorithm is not None
    figures = AcceptanceFigures.SGLANG if drafts else AcceptanceFigures.NONE
    return Side(name, client, replace(plain, figures=figures), tells_acceptance=drafts)


def _description(text: str, runtime: Runtime | None) -> Described:
    if runtime is None:
        return Described(endpoint=provenance.without_paths(text))
    return Described(
        endpoint=provenance.without_paths(text),
        sglang_version=runtime.version,
        device=runtime.device,
        algorithm=runtime.algorithm,
        tree=runtime.tree if runtime.algorithm else None,
    )


def _differences(a: Runtime | None, b: Runtime | None) -> Iterable[str]:
    if a is None or b is None:
        yield "not told: a side does not describe itself"
        return
    theirs = b.configuration
    for name, value in a.configuration.items():
        if theirs[name] != value:
            yield f"{name}: {value} and {theirs[name]}"


class _Comparing:
    """The cells, one after another."""

    def __init__(
        self, plan: Plan, argv: Sequence[str], say: Say, tasks: Sequence[PromptSet], pair: Pair, raw: RawFile
    ) -> None:
        self._plan, self._argv, self._say, self._tasks, self._pair, self._raw = plan, argv, say, tasks, pair, raw
        self._same_text: SameText | None = None
        self._cells: list[Cell] = []
        self._ratios: dict[int, list[list[float]]] = {}

    async def run(self) -> Outcome:
        failure: BenchError | None = None
        interrupted = False
        for difference in self._pair.differences:
            self._say(f"the sides differ in more than speculation: {difference}")
        try:
            await self._measure()
        except BenchError as error:
            failure = error
        except asyncio.CancelledError:
            interrupted = True
        if not self._cells and failure is not None:
            raise failure
        return Outcome(self._told(partial=interrupted or failure is not None), failure, interrupted)

    def _told(self, *, partial: bool) -> Comparison:
        """What there is; written too after every cell, so that whatever ends this process leaves it."""
        comparison = self._comparison(partial=partial)
        if self._plan.output and self._cells:
            comparison.write(self._plan.output)
        return comparison

    async def _measure(self) -> None:
        plan, (ours, reference) = self._plan, self._pair.sides
        if plan.same_text and plan.temperature == 0:
            asked = [prompt for task in self._tasks for prompt in task.prompts[: plan.same_text]]
            self._same_text = await same_text.compare(
                ours.client, reference.client, asked, self._pair.model, plan.max_tokens
            )
        schedule = Schedule(plan.rounds, plan.passes, plan.time_limit_s)
        measurement = Measurement(self._pair.sides, schedule, self._say, self._keep)
        for batch_size in plan.batch_sizes:
            for task in self._tasks:
                a, b = await measurement.at(batch_size, task)
                self._cells.append(self._cell(task.task, a, b))
                self._told(partial=True)

    def _keep(self, turn: Round) -> None:
        for request in turn.requests:
            self._raw.add(
                request,
                side=turn.side.name,
                task=turn.prompts.task,
                batch_size=turn.batch_size,
                round=turn.number,
            )

    def _cell(self, task: str, a: Rounds, b: Rounds) -> Cell:
        ratios = speedups(a, b)
        noise = stats.coefficient_of_variation(ratios)
        quiet = noise <= NOISE_BOUND or self._plan.allow_noise
        if quiet:  # else there is no mean at this batch size either
            self._ratios.setdefault(a.batch_size, []).append(ratios)
        if noise > NOISE_BOUND:
            self._say(
                f"batch size {a.batch_size}, {task}: the rounds' ratios differ by {noise:.0%} (coefficient of "
                f"variation, {NOISE_BOUND:.0%} at most): the machine was not quiet"
            )
        return Cell(
            task=task,
            batch_size=a.batch_size,
            a=_measured(a),
            b=_measured(b),
            speedup=Interval.of(stats.median_with_interval(ratios)),
            noise=rounded(noise),
            quiet=quiet,
        )

    def _comparison(self, *, partial: bool) -> Comparison:
        plan, pair = self._plan, self._pair
        return Comparison(
            created=datetime.now(UTC).replace(microsecond=0),
            commit=provenance.commit(),
            argv=provenance.arguments(self._argv),
            versions=provenance.versions(),
            partial=partial,
            hardware=pair.hardware,
            model=pair.model,
            a=pair.described[0],
            b=pair.described[1],
            differences=pair.differences,
            workload=Workload(
                tasks=tuple(Task(name=task.task, sha256=task.sha256) for task in self._tasks),
                max_tokens=plan.max_tokens,
                temperature=plan.temperature,
                rounds=plan.rounds,
                passes=plan.passes,
            ),
            cells=tuple(self._cells),
            overall=tuple(
                Overall(batch_size=batch_size, speedup=_mean_speedup(ratios))
                for batch_size, ratios in self._ratios.items()
                if len(ratios) == len(self._tasks)
            ),
            same_text=self._same_text,
        )


def _mean_speedup(ratios: Sequence[Sequence[float]]) -> Interval:
    """Of tasks, each with its rounds' ratios: the geometric mean, and its interval over the rounds."""
    by_round = [statistics.geometric_mean(each) for each in zip(*ratios, strict=True)]
    return Interval.of(stats.median_with_interval(by_round))


def _measured(rounds: Rounds) -> Measured:
    acceptance = rounds.acceptance
    length = acceptance.length if acceptance else None
    return Measured(
        tokens_per_s=rounded(statistics.median(rounds.tokens_per_s)),
        rounds=tuple(map(rounded, rounds.tokens_per_s)),
        token_s=rounded(rounds.token_s),
        acceptance_length=None if length is None else rounded(length),
        verify_passes=acceptance.verify_passes if acceptance and length is not None else None,
        accepted_by_position=acceptance.accepted_by_position if acceptance else (),
        ttft_s=_quantiles(request.ttft_s for request in rounds.steady),
        tpot_s=_quantiles(request.tpot_s for request in rounds.steady),
        e2e_s=_quantiles(request.e2e_s for request in rounds.steady),
    )


def _quantiles(values: Iterable[float | None]) -> tuple[float, ...] | None:
    known = [value for value in values if value is not None]
    return stats.quantiles(known, QUANTILES) if known else None
