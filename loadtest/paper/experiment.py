"""The experiments: each method beside plain decoding, one baseline runtime for all of them.

    Table 1   every method, every task, batch size 1, temperature 0 and 1: speedup and acceptance length
    Table 3   EAGLE-3 as a chain, the first task: throughput against batch size
    Figure 7  EAGLE-3 as a chain of seven: n-alpha

Owns which comparisons these are, and going on where an earlier run stopped. Refuses to own a comparison (compare.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest import compare, files, provenance
from loadtest.asking import Say
from loadtest.errors import DocumentError
from loadtest.launch import Endpoint, started
from loadtest.paper.methods import Methods, methods
from loadtest.paper.results import Experiment, Name, Paper
from loadtest.prompts import load

OURS = "EAGLE-3"
ALPHA_CHAIN = 7
"""Drafts of a pass, for 0-alpha to 6-alpha."""


@dataclass(frozen=True)
class Plan:
    """What to repeat, and how thoroughly."""

    output: Path
    prompts: tuple[Path, ...]
    profile: str | None = None
    baseline: str = "baseline"
    further: dict[str, str] = field(default_factory=dict)
    """Methods by name: sides of a comparison."""
    only: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = (0.0, 1.0)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Of Table 3."""
    chain: int = 3
    """Drafts of a pass in Table 3."""
    rounds: int = 3
    passes: int = 2
    max_tokens: int = 64
    model: str | None = None
    hardware: str | None = None
    allow_noise: bool = False
    resume: bool = False
    time_limit_s: float = 120.0
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Step:
    """One comparison that is to be made."""

    name: Name
    method: str
    side: str
    temperature: float
    batch_sizes: tuple[int, ...]
    prompts: tuple[Path, ...]

    @property
    def key(self) -> tuple[str, str, float]:
        """What tells it from the others."""
        return self.name, self.method, self.temperature


def steps(plan: Plan, chosen: Methods) -> Iterator[Step]:
    """All of them, those of one runtime one after another."""
    for method, side in chosen.sides.items():
        for temperature in plan.temperatures:
            yield Step("table_1", method, side, temperature, (1,), plan.prompts)
    if OURS in chosen.sides and Endpoint.parse(chosen.sides[OURS]).options is not None:
        ours = chosen.sides[OURS]
        yield Step("table_3", OURS, _chain(ours, plan.chain), 0.0, plan.batch_sizes, plan.prompts[:1])
        yield Step("figure_7", OURS, _chain(ours, ALPHA_CHAIN), 0.0, (1,), plan.prompts)


def _chain(side: str, drafts: int) -> str:
    return f"{side} --num-steps {drafts} --eagle-topk 1 --num-draft-tokens {drafts + 1}"


async def repeat(plan: Plan, argv: Sequence[str], say: Say, *, api_key: str | None = None) -> Paper:
    """Measure; the file is written again after every comparison. A cancellation ends it, partial.

    Raises:
        BenchError: a comparison failed; those before it are in the file.
    """
    files.require_writable(plan.output)
    chosen = methods(plan.profile, plan.further, plan.only)
    done = _earlier(plan)
    async with AsyncExitStack() as stack:
        baseline = await stack.enter_async_context(started(Endpoint.parse(plan.baseline), plan.profile, say))
        for step in steps(plan, chosen):
            if _measured(step, done, plan.output):
                say(f"{step.name}, {step.method}, temperature {step.temperature:g}: was measured before")
                continue
            say(f"{step.name}, {step.method}, temperature {step.temperature:g}")
            outcome = await compare.compare(_comparison(plan, step, baseline), argv, say, api_key=api_key)
            if outcome.failure:
                raise outcome.failure
            if outcome.interrupted:
                return _paper(argv, chosen, done, partial=True)
            if any(each.comparison.model != outcome.comparison.model for each in done):
                raise DocumentError(f"{plan.output}: was measured with {done[0].comparison.model}; leave --resume out")
            made = Experiment(
                name=step.name, method=step.method, temperature=step.temperature, comparison=outcome.comparison
            )
            done = [*done, made]
            _paper(argv, chosen, done, partial=True).write(plan.output)
    whole = _paper(argv, chosen, done, partial=False)
    whole.write(plan.output)
    return whole


def _comparison(plan: Plan, step: Step, baseline: str) -> compare.Plan:
    names = ("profile", "rounds", "passes", "max_tokens", "model", "hardware", "allow_noise")
    common = {name: getattr(plan, name) for name in (*names, "time_limit_s", "timeout_s")}
    base = compare.Plan(a=step.side, b=baseline, same_text=2 if step.name == "table_1" else 0, **common)
    return replace(base, batch_sizes=step.batch_sizes, prompts=step.prompts, temperature=step.temperature)


def _earlier(plan: Plan) -> list[Experiment]:
    """What an earlier run measured of the same workload."""
    if not plan.resume:
        return []
    found = Paper.read(plan.output, "a file of `aerie-bench paper`")
    for each in found.experiments:
        work = each.comparison.workload
        if (work.max_tokens, work.rounds, work.passes) != (plan.max_tokens, plan.rounds, plan.passes):
            raise DocumentError(f"{plan.output}: was measured with other --max-tokens, --rounds or --passes")
    return list(found.experiments)


def _measured(step: Step, done: Sequence[Experiment], path: Path) -> bool:
    """Whether an earlier run has this comparison; one of something else under its name is refused."""
    found = next((each for each in done if (each.name, each.method, each.temperature) == step.key), None)
    if found is None:
        return False
    comparison = found.comparison
    asked = {task.sha256 for task in comparison.workload.tasks}
    same = (
        comparison.a.endpoint == provenance.without_paths(step.side)
        and {cell.batch_size for cell in comparison.cells} == set(step.batch_sizes)
        and asked == {load(each).sha256 for each in step.prompts}
    )
    if not same:
        raise DocumentError(
            f"{path}: {step.name} of {step.method} was measured with another side, other prompts or batch sizes; "
            "leave --resume out"
        )
    return True


def _paper(argv: Sequence[str], chosen: Methods, done: Sequence[Experiment], *, partial: bool) -> Paper:
    return Paper(
        created=datetime.now(UTC).replace(microsecond=0),
        commit=provenance.commit(),
        argv=provenance.arguments(argv),
        versions=provenance.versions(),
        partial=partial,
        not_measured=chosen.not_measured,
        experiments=tuple(done),
    )
