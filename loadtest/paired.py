"""Sides measured in turns: the same prompts at the same batch size, round by round, on endpoints that wait meanwhile.

    a, b, b, a, a, b, ...: what drifts while a measurement lasts drifts for both

Owns this order, the warm-up before it, and what a side's rounds come to. Refuses to own requests (client.py), the loop
(closed_loop.py), its accounting (window.py), and what is made of the figures (calibrate.py, compare.py).
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loadtest import closed_loop, window
from loadtest.asking import Say
from loadtest.client import WARM_UP_TOKENS, Client, Sampling
from loadtest.closed_loop import Bounds
from loadtest.errors import EndpointError, NoWindow, RequestsFailed
from loadtest.prompts import PromptSet
from loadtest.record import Acceptance, Request


@dataclass(frozen=True)
class Side:
    """An endpoint under measurement."""

    name: str
    client: Client
    sampling: Sampling
    tells_acceptance: bool
    """Whether it must: it speculates, and was asked for its figures."""


@dataclass(frozen=True)
class Schedule:
    """How much is asked at each batch size."""

    rounds: int
    passes: int
    """Requests of a worker in a round, after one that is not counted."""
    time_limit_s: float


@dataclass(frozen=True)
class Round:
    """One side's turn."""

    side: Side
    prompts: PromptSet
    batch_size: int
    number: int
    """From 1."""
    requests: tuple[Request, ...]
    figures: window.Figures

    @property
    def steady(self) -> list[Request]:
        """While the batch was full: not each worker's first request, nor those that ended after the window."""
        in_order = sorted(self.requests, key=lambda request: request.sent_s)
        return [request for request in in_order[self.batch_size :] if request.ended_s <= self.figures.end_s]


@dataclass(frozen=True)
class Rounds:
    """One side's turns at one batch size."""

    side: Side
    batch_size: int
    turns: tuple[Round, ...]

    @property
    def steady(self) -> list[Request]:
        """Of all turns."""
        return [request for turn in self.turns for request in turn.steady]

    @property
    def tokens_per_s(self) -> list[float]:
        """Of each round."""
        return [turn.figures.tokens_per_s for turn in self.turns]

    @property
    def token_s(self) -> float:
        """Seconds per token of one request while all decode: the rounds' median."""
        return statistics.median(turn.figures.token_s for turn in self.turns)

    @property
    def acceptance(self) -> Acceptance | None:
        """Over all rounds; None of a side that does not tell."""
        return Acceptance.total(turn.figures.acceptance for turn in self.turns)


def speedups(ours: Rounds, theirs: Rounds) -> list[float]:
    """Ratio of throughputs, round by round."""
    return [mine / other for mine, other in zip(ours.tokens_per_s, theirs.tokens_per_s, strict=True)]


class Measurement:
    """Measures sides in turns; `told` hears of every turn."""

    def __init__(
        self, sides: Sequence[Side], schedule: Schedule, say: Say, told: Callable[[Round], None] = lambda _: None
    ) -> None:
        self._sides, self._schedule, self._say, self._told = sides, schedule, say, told
        self._remembers: set[str] = set()

    async def at(self, batch_size: int, prompts: PromptSet) -> list[Rounds]:
        """By side.

        Raises:
            BenchError: a request failed, or a round was too short to tell anything.
        """
        needed = batch_size * (1 + self._schedule.passes)
        if needed > len(prompts.prompts):
            self._say(
                f"batch size {batch_size}: a round asks {needed} times and there are {len(prompts.prompts)} prompts: "
                "the runtime may know some of them already"
            )
        for side in self._sides:
            warm_up = replace(side, sampling=replace(side.sampling, max_tokens=WARM_UP_TOKENS))
            await self._loop(warm_up, prompts, Bounds(batch_size, 0, self._schedule.time_limit_s))
        turns: dict[str, list[Round]] = {side.name: [] for side in self._sides}
        for number in range(1, self._schedule.rounds + 1):
            for side in self._sides if number % 2 else self._sides[::-1]:
                turns[side.name].append(await self._turn(side, batch_size, prompts, number))
        return [Rounds(side, batch_size, tuple(turns[side.name])) for side in self._sides]

    async def _turn(self, side: Side, batch_size: int, prompts: PromptSet, number: int) -> Round:
        if not await side.client.flush_cache() and side.name not in self._remembers:
            self._remembers.add(side.name)
            self._say(f"{side.name}: does not flush its cache: it knows every prompt from the second round on")
        bounds = Bounds(batch_size, self._schedule.passes, self._schedule.time_limit_s)
        run = await self._loop(side, prompts, bounds)
        if run.timed_out:
            raise NoWindow(
                f"batch size {batch_size}, {side.name}: the time limit ended a turn, whose prompts must be the same on "
                "every side: raise --time-limit, or lower --passes or --max-tokens"
            )
        figures = window.figures(run)
        tau = figures.acceptance.length if figures.acceptance else None
        if tau is None and side.tells_acceptance:
            raise EndpointError(f"{side.client.url}: tells no acceptance figures (return_spec_tokens_details)")
        turn = Round(side, prompts, batch_size, number, run.requests, figures)
        self._told(turn)
        self._say(
            f"batch size {batch_size}, {prompts.task}, round {number} of {self._schedule.rounds}, {side.name}: "
            f"{figures.tokens_per_s:.1f} tok/s{f', tau {tau:.2f}' if tau else ''} "
            f"({figures.window_s:.1f} s; this client took {figures.client_cpu_share:.0%} of a CPU)"
        )
        return turn

    async def _loop(self, side: Side, prompts: PromptSet, bounds: Bounds) -> closed_loop.Run:
        run = await closed_loop.run(
            lambda prompt: side.client.chat(prompt.messages, side.sampling), prompts.prompts, bounds
        )
        if run.failed:
            raise RequestsFailed(
                f"{side.client.url}: {len(run.failed)} of {len(run.requests)} requests failed "
                f"at batch size {bounds.concurrency}: {run.failed[0].failure}"
            )
        return run
