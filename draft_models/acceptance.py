# ruff: noqa: N803, N806  shape suffixes
"""Acceptance: tau, n-alpha and their uncertainty, from counts of correct drafts (definitions: docs/sglang.md).

Owns the arithmetic, once, for training, evaluation and reports. Refuses to own models.

Shapes: P prompts, R resamples of them, N values of n, T tasks.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

RESAMPLES, LEVEL = 1000, 0.95
"""Of the bootstrap: samples, and the share of them that an interval holds."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Acceptance:
    """Verify passes by how many drafts each accepted: `histogram[n]` passes accepted exactly n."""

    histogram: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, correct_drafts: Sequence[int]) -> "Acceptance":
        """From one count per verify pass."""
        return cls(Counter(correct_drafts))

    def __add__(self, other: "Acceptance") -> "Acceptance":
        return Acceptance(self.histogram + other.histogram)

    @property
    def verify_passes(self) -> int:
        """Drafting-verification cycles counted."""
        return self.histogram.total()

    @property
    def correct_drafts(self) -> int:
        """Draft tokens accepted, the bonus token not included."""
        return sum(count * passes for count, passes in self.histogram.items())

    @property
    def tau(self) -> float:
        """Tokens per cycle, bonus token included: 1 + correct drafts / verify passes; 1 when nothing was verified."""
        return 1 + self.correct_drafts / self.verify_passes if self.verify_passes else 1.0

    def alphas(self, depth: int) -> list[float | None]:
        """n-alpha for n < depth: P(draft n + 1 accepted | the first n were), on chains. None: never reached."""
        return [after / before if before else None for before, after in pairwise(self.reached(depth))]

    def reached(self, depth: int) -> list[int]:
        """Passes that accepted at least n drafts, for n = 0..depth."""
        return [sum(passes for count, passes in self.histogram.items() if count >= n) for n in range(depth + 1)]


def tau_interval(per_prompt: Sequence[Acceptance], seed: int = 0) -> Interval | None:
    """Confidence interval of tau; None for fewer than two prompts."""
    return mean_tau_interval([per_prompt], seed)


def mean_tau_interval(tasks: Sequence[Sequence[Acceptance]], seed: int = 0) -> Interval | None:
    """Confidence interval of the tasks' mean tau, each task's prompts resampled on their own.

    None where a task has fewer than two prompts.
    """
    if min(map(len, tasks)) < 2:
        return None
    taus_RT = torch.cat([_resampled_taus(task, seed + index) for index, task in enumerate(tasks)], dim=1)
    (interval,) = _intervals(taus_RT.mean(1, keepdim=True))
    return interval


def alpha_intervals(per_prompt: Sequence[Acceptance], depth: int, seed: int = 0) -> list[Interval | None]:
    """Confidence intervals of n-alpha for n < depth; None for fewer than two prompts, or where n is never reached."""
    if len(per_prompt) < 2:
        return [None] * depth
    reached_PN = torch.tensor([prompt.reached(depth) for prompt in per_prompt])
    return _intervals(_resampled(reached_PN[:, 1:], reached_PN[:, :-1], seed))


def walk(leading: Sequence[int], start: int, stop: int) -> list[int]:
    """Correct drafts of each cycle when decoding goes from `start` to `stop`.

    Args:
        leading: for each position, how many drafts in a row would be right if a cycle began there.
        start: position of the first cycle; a cycle with n correct drafts moves n + 1 positions.
        stop: first position where nothing is left to draft.
    """
    correct, position = [], start
    while position < stop:
        accepted = min(leading[position], stop - position - 1)  # the answer's last token is a bonus token
        correct.append(accepted)
        position += accepted + 1
    return correct


def _resampled_taus(per_prompt: Sequence[Acceptance], seed: int) -> Tensor:
    """[R, 1]"""
    correct_P1 = torch.tensor([[prompt.correct_drafts] for prompt in per_prompt])
    passes_P1 = torch.tensor([[prompt.verify_passes] for prompt in per_prompt])
    return 1 + _resampled(correct_P1, passes_P1, seed)


def _resampled(part_PN: Tensor, whole_PN: Tensor, seed: int) -> Tensor:
    """sum(part) / sum(whole) of every sample, [R, N]; nan where a column is never reached.

    Prompts are drawn, not cycles: those of one prompt are not independent.
    """
    prompts = len(part_PN)
    drawn_RP = torch.randint(prompts, (RESAMPLES, prompts), generator=torch.Generator().manual_seed(seed))
    return part_PN[drawn_RP].sum(1).double() / whole_PN[drawn_RP].sum(1)


def _intervals(sample_RN: Tensor) -> list[Interval | None]:
    """Percentiles of each of N columns; samples that say nothing about a column are left out."""
    tail = (1 - LEVEL) / 2
    low_high_2N = sample_RN.nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.double), dim=0)
    return [None if math.isnan(low) else (low, high) for low, high in low_high_2N.T.tolist()]
