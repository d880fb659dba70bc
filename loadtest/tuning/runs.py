"""Measured trees: a runtime started with each, beside a baseline that stays up, in turns.

With `alone` only one runtime runs at a time, for an accelerator that holds no two: the baseline is measured first, and
what the machine does differently later does not cancel out.

Owns starting them and a tree's cells. Refuses to own processes (launch.py), the rounds (paired.py) and which trees are
measured (search.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from loadtest import stats
from loadtest.asking import Say
from loadtest.client import AcceptanceFigures, Client, Sampling
from loadtest.launch import Endpoint, started
from loadtest.paired import Measurement, Rounds, Schedule, Side, speedups
from loadtest.prompts import PromptSet
from loadtest.runtime import Runtime, choose_model, describe, require_pair
from loadtest.stats import rounded
from loadtest.tree import Tree
from loadtest.tuning.evidence import Cell, Run

NOISE_BOUND = 0.1
"""Of the coefficient of variation of a cell's ratios: above it, the command says so, and the intervals show it."""


@dataclass(frozen=True)
class Setup:
    """What every tree is measured with."""

    prompts: PromptSet
    schedule: Schedule
    batch_sizes: tuple[int, ...]
    max_tokens: int
    temperature: float
    model: str | None = None
    profile: str | None = None
    alone: bool = False
    timeout_s: float = 120.0
    api_key: str | None = None


@dataclass
class Bench:
    """The baseline, and what it did where it no longer runs."""

    setup: Setup
    say: Say
    baseline: Side
    plain: Runtime
    measured: dict[int, Rounds] = field(default_factory=dict)

    async def measure(self, tree: Tree) -> Run:
        """Start a runtime with this tree, measure it, end it.

        Raises:
            BenchError: it cannot be started or measured.
        """
        steps, topk, tokens = tree.num_steps, tree.eagle_topk, tree.num_draft_tokens
        options = f"speculation --num-steps {steps} --eagle-topk {topk} --num-draft-tokens {tokens}"
        async with _runtime(self.setup, options, self.say) as client:
            drafting = await describe(client)
            require_pair(self.plain, drafting, self.setup.batch_sizes)
            sampling = replace(self.baseline.sampling, figures=AcceptanceFigures.SGLANG)
            side = Side(str(tree), client, sampling, tells_acceptance=True)
            cells = [await self._cell(side, batch_size) for batch_size in self.setup.batch_sizes]
        return Run(tree=str(tree), cells=tuple(cells))

    async def measure_baseline(self) -> None:
        """Before it is ended."""
        for batch_size in self.setup.batch_sizes:
            (self.measured[batch_size],) = await self._rounds([self.baseline], batch_size)

    async def _cell(self, side: Side, batch_size: int) -> Cell:
        if batch_size in self.measured:
            (ours,), theirs = await self._rounds([side], batch_size), self.measured[batch_size]
        else:
            ours, theirs = await self._rounds([side, self.baseline], batch_size)
        ratios = _ratios(ours, theirs)
        if len(ratios) > 1 and (noise := stats.coefficient_of_variation(ratios)) > NOISE_BOUND:
            self.say(f"batch size {batch_size}, {side.name}: the rounds differ by {noise:.0%}: not a quiet machine")
        assert ours.acceptance is not None
        assert ours.acceptance.length is not None
        return Cell(
            batch_size=batch_size,
            step_s=rounded(theirs.token_s),
            ratios=tuple(map(rounded, ratios)),
            speedups=tuple(map(rounded, speedups(ours, theirs))),
            acceptance_length=rounded(ours.acceptance.length),
        )

    async def _rounds(self, sides: Sequence[Side], batch_size: int) -> list[Rounds]:
        return await Measurement(sides, self.setup.schedule, self.say).at(batch_size, self.setup.prompts)


@asynccontextmanager
async def bench(setup: Setup, say: Say) -> AsyncIterator[Bench]:
    """With a baseline; started at once.

    Raises:
        BenchError: it cannot be started.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_runtime(setup, "baseline", say))
        plain = await describe(client)
        require_pair(plain, None, setup.batch_sizes)
        model = choose_model(client.url, plain.models, setup.model)
        sampling = Sampling(model, setup.max_tokens, temperature=setup.temperature, token_counts=True)
        made = Bench(setup, say, Side("baseline", client, sampling, tells_acceptance=False), plain)
        if setup.alone:
            await made.measure_baseline()
            await stack.aclose()
        yield made


@asynccontextmanager
async def _runtime(setup: Setup, options: str, say: Say) -> AsyncIterator[Client]:
    async with (
        started(Endpoint.parse(options), setup.profile, say) as url,
        Client(url, api_key=setup.api_key, timeout_s=setup.timeout_s) as client,
    ):
        yield client


def _ratios(ours: Rounds, theirs: Rounds) -> list[float]:
    """Cycle time over step time, round by round: seconds per token times tokens per cycle."""
    ratios = []
    for mine, other in zip(ours.turns, theirs.turns, strict=True):
        assert mine.figures.acceptance is not None  # every round was looked at when it ended
        assert mine.figures.acceptance.length is not None
        ratios.append(mine.figures.acceptance.length * mine.figures.token_s / other.figures.token_s)
    return ratios
