"""Tuning from beginning to end: a recording and a traffic in, a tuning out.

    read the recording -> start the baseline -> search (a start for each tree) -> verdict

Owns the order of things. Refuses to own each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest import provenance
from loadtest.asking import Say
from loadtest.errors import TuneError
from loadtest.paired import Schedule
from loadtest.prompts import PromptSet, PromptSource, load
from loadtest.stats import rounded
from loadtest.tree import Tree
from loadtest.tuning.evidence import Evidence, Traffic, candidates
from loadtest.tuning.recording import Recording
from loadtest.tuning.result import Source, Tuning, Workload
from loadtest.tuning.runs import Setup, bench
from loadtest.tuning.search import Found, Search
from loadtest.tuning.surface import GUESS
from loadtest.tuning.verdict import decide


@dataclass(frozen=True)
class Plan:
    """What to tune for, and how long to measure."""

    record: Path
    batch_sizes: Mapping[int, float]
    tasks: Mapping[str, float]
    prompts: tuple[Path, ...] = ()
    profile: str | None = None
    runs: int = 5
    rounds: int = 3
    passes: int = 2
    max_tokens: int = 64
    chains: bool = False
    alone: bool = False
    reuse: Path | None = None
    model: str | None = None
    hardware: str | None = None
    time_limit_s: float = 120.0
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Place:
    """Where runs were measured."""

    hardware: str
    model: str
    sglang_version: str
    workload: Workload


async def tune(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Tuning:
    """Measure and decide; nothing is written.

    Raises:
        BenchError: it cannot be measured.
    """
    recording = Recording.read(plan.record)
    traffic = Traffic.of(recording, plan.tasks, plan.batch_sizes)
    search = Search(recording, traffic, candidates(recording.widest, chains=plan.chains), plan.runs)
    if plan.reuse:
        known = Tuning.load(plan.reuse)
        place = Place(known.hardware, known.model, known.sglang_version, known.workload)
        return tuning_of(argv, search, Found(_evidence_of(known, search)), place)
    prompts = PromptSource(plan.prompts).prompts()
    if plan.prompts and not {load(path).sha256 for path in plan.prompts} <= set(recording.head.prompts_sha256.values()):
        say(f"the runs ask other prompts than {recording.name} was recorded with")
    setup = Setup(
        prompts=prompts,
        schedule=Schedule(plan.rounds, plan.passes, plan.time_limit_s),
        batch_sizes=tuple(traffic.batch_sizes),
        max_tokens=plan.max_tokens,
        temperature=recording.head.setting.temperature,
        model=plan.model,
        profile=plan.profile,
        alone=plan.alone,
        timeout_s=plan.timeout_s,
        api_key=api_key,
    )
    async with bench(setup, say) as measuring:
        plain = measuring.plain
        hardware = plan.hardware or provenance.hardware(plain.url, plain.device)
        found = await search.run(measuring.measure, say)
    place = Place(hardware, measuring.baseline.sampling.model, plain.version, _workload(plan, prompts))
    return tuning_of(argv, search, found, place)


def _evidence_of(known: Tuning, search: Search) -> Evidence:
    """What was measured before, of trees that may be chosen, for this traffic.

    Raises:
        TuneError: no such tree, or a batch size that was not measured.
    """
    runs = [run for run in known.runs if Tree.parse(run.tree) in search.candidates]
    if not runs:
        raise TuneError("none of the measured trees may be chosen here: measure anew")
    for run in runs:
        missing = set(search.traffic.batch_sizes) - {cell.batch_size for cell in run.cells}
        if missing:
            raise TuneError(
                f"batch size {min(missing)} was not measured with {run.tree}: leave it out, or measure anew"
            )
    return Evidence.of(search.recording, search.traffic, runs)


def _workload(plan: Plan, prompts: PromptSet) -> Workload:
    return Workload(
        prompts=prompts.name,
        prompts_sha256=prompts.sha256,
        max_tokens=plan.max_tokens,
        rounds=plan.rounds,
        passes=plan.passes,
    )


def tuning_of(argv: Sequence[str], search: Search, found: Found, place: Place) -> Tuning:
    """What was found, decided."""
    evidence, recording = found.evidence, search.recording
    verdict = decide(evidence, search.candidates)
    return Tuning(
        created=datetime.now(UTC).replace(microsecond=0),
        commit=provenance.commit(),
        argv=provenance.arguments(argv),
        versions=provenance.versions(),
        partial=found.interrupted,
        hardware=place.hardware,
        model=place.model,
        sglang_version=place.sglang_version,
        source=Source(
            name=recording.name,
            sha256=recording.sha256,
            widest=str(recording.widest),
            draft=recording.head.draft,
            draft_sha256=recording.head.draft_sha256,
            temperature=recording.head.setting.temperature,
        ),
        tasks=dict(evidence.traffic.tasks),
        workload=place.workload,
        costs_s=dict(zip(GUESS, map(rounded, evidence.surface.costs_s), strict=True)),
        runs=tuple(evidence.runs.values()),
        trees=verdict.trees,
        bands=verdict.bands,
        chosen=str(verdict.chosen) if verdict.chosen else None,
        speedup=verdict.speedup,
        policy=verdict.policy,
    )
