"""What is known about trees: a recording, the runs measured so far, the traffic it is for; and what follows from it.

A tree's speedup at a batch size is tau / ratio: tokens per cycle from the recording, over cycle time in steps of the
baseline, measured where the tree was, else from the fitted surface. Over a traffic that spends given shares of the
baseline's time at each batch size, it is the shares' harmonic mean: the time before over the time after.

Intervals are the bootstrap's: answers of each task and rounds of each cell are drawn again, and everything is computed
anew, the surface included. Owns this arithmetic. Refuses to own measuring (runs.py) and the search (search.py).
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self, TypeVar

from pydantic import Field

from loadtest.document import AcceptanceLength, Count, Part, Positive, Words
from loadtest.errors import TuneError
from loadtest.stats import CONFIDENCE, Estimate
from loadtest.tree import Tree
from loadtest.tuning.recording import Drawn, Recording
from loadtest.tuning.surface import Observed, Surface

_Key = TypeVar("_Key", str, int)
RESAMPLES = 200
SIZES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""num_draft_tokens that are weighed: neighbours of large ones hardly differ."""


class Cell(Part):
    """A tree at a batch size beside the baseline, round by round."""

    batch_size: Count
    step_s: Positive
    """Of the baseline, the rounds' median."""
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Cycle time over the baseline's step time."""
    speedups: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Throughput over the baseline's, prompts' time included."""
    acceptance_length: AcceptanceLength


class Run(Part):
    """A measured tree: one start of a runtime."""

    tree: Words
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Traffic:
    """What the tree is for; both sum to 1."""

    tasks: Mapping[str, float]
    """Shares of the tokens."""
    batch_sizes: Mapping[int, float]
    """Shares of the time."""

    @classmethod
    def of(cls, recording: Recording, tasks: Mapping[str, float], batch_sizes: Mapping[int, float]) -> Self:
        """From weights; without any, the recording's tasks alike.

        Raises:
            TuneError: a task that was not recorded.
        """
        weights = tasks or dict.fromkeys(recording.tasks, 1.0)
        for task in weights:
            if task not in recording.tasks:
                raise TuneError(f"{task}: {recording.name} has no such task; it has {', '.join(recording.tasks)}")
        return cls(_shares(weights), _shares(dict(sorted(batch_sizes.items()))))


@dataclass(frozen=True)
class Evidence:
    """All of it, or one resample."""

    recording: Recording
    traffic: Traffic
    runs: Mapping[Tree, Run]
    drawn: Drawn | None = None

    @classmethod
    def of(cls, recording: Recording, traffic: Traffic, runs: Sequence[Run]) -> Self:
        """Without a run nothing is known of the baseline."""
        return cls(recording, traffic, {Tree.parse(run.tree): run for run in runs})

    @cached_property
    def ratios(self) -> Mapping[tuple[Tree, int], float]:
        """Measured: the rounds' median."""
        return {
            (tree, cell.batch_size): statistics.median(cell.ratios)
            for tree, run in self.runs.items()
            for cell in run.cells
        }

    @cached_property
    def surface(self) -> Surface:
        """Fitted to all runs."""
        steps: dict[int, list[float]] = {}
        for cell in (cell for run in self.runs.values() for cell in run.cells):
            steps.setdefault(cell.batch_size, []).append(cell.step_s)
        step_s = {batch_size: statistics.median(found) for batch_size, found in steps.items()}
        return Surface.fit([Observed(*at, ratio) for at, ratio in self.ratios.items()], step_s)

    def tau(self, tree: Tree) -> float:
        """Of the traffic."""
        return self.recording.tau(tree, self.traffic.tasks, self.drawn)

    def ratio(self, tree: Tree, batch_size: int) -> float:
        """Cycle time over step time: the tau that breaks even."""
        measured = self.ratios.get((tree, batch_size))
        return self.surface.ratio(tree, batch_size) if measured is None else measured

    def speedup(self, tree: Tree, batch_size: int | None = None) -> float:
        """Decoding alone; without a batch size, of the traffic."""
        if batch_size is not None:
            return self.tau(tree) / self.ratio(tree, batch_size)
        shares = self.traffic.batch_sizes.items()
        return 1 / sum(share / self.speedup(tree, batch_size) for batch_size, share in shares)

    def resample(self, draw: random.Random) -> "Evidence":
        """Other answers and rounds that could have been."""
        drawn = {task: draw.choices(range(len(found)), k=len(found)) for task, found in self.recording.tasks.items()}
        runs = {tree: _redrawn(run, draw) for tree, run in self.runs.items()}
        return Evidence(self.recording, self.traffic, runs, drawn)

    @cached_property
    def resamples(self) -> "list[Evidence]":
        """Seeded: the same for every tree, so that trees are compared alike."""
        draw = random.Random(0)  # noqa: S311  resampling, not a secret
        return [self.resample(draw) for _ in range(RESAMPLES)]

    def interval(self, tree: Tree, batch_size: int | None = None) -> Estimate:
        """Of a speedup."""
        value = self.speedup(tree, batch_size)
        found = sorted(one.speedup(tree, batch_size) for one in self.resamples)
        tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
        return Estimate(value, min(found[tail], value), max(found[-1 - tail], value))


def candidates(widest: Tree, *, chains: bool = False) -> list[Tree]:
    """Trees within the widest; with `chains`, topk 1 only."""
    found = []
    for steps in range(1, widest.num_steps + 1):
        for topk in range(1, 2 if chains else widest.eagle_topk + 1):
            least, most = Tree(steps, topk, 0).bounds
            sizes = {least, *SIZES}
            found += [
                Tree(steps, topk, size) for size in sorted(sizes) if least <= size <= min(most, widest.num_draft_tokens)
            ]
    return found


def _redrawn(run: Run, draw: random.Random) -> Run:
    cells = [
        cell.model_copy(update={"ratios": tuple(draw.choices(cell.ratios, k=len(cell.ratios)))}) for cell in run.cells
    ]
    return run.model_copy(update={"cells": tuple(cells)})


def _shares(weights: Mapping[_Key, float]) -> dict[_Key, float]:
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}
