"""Acceptance: tau, n-alpha and their uncertainty, from counts of correct drafts (definitions: docs/sglang.md).

Owns the arithmetic, once, for training, evaluation and reports. Refuses to own models.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


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
        reached = [sum(self.histogram[j] for j in self.histogram if j >= n) for n in range(depth + 1)]
        return [after / before if before else None for before, after in pairwise(reached)]


def tau_interval(
    per_prompt: Sequence[Acceptance], seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap confidence interval of tau, prompts resampled: cycles of one prompt are not independent."""
    draw = random.Random(seed)  # noqa: S311  not cryptography
    totals = [(prompt.correct_drafts, prompt.verify_passes) for prompt in per_prompt]
    taus = sorted(_tau(draw.choices(totals, k=len(totals))) for _ in range(resamples))
    tail = int((1 - level) / 2 * resamples)
    return taus[tail], taus[-1 - tail]


def walk(leading: Sequence[int], start: int, stop: int) -> list[int]:
    """Correct drafts of each cycle when decoding goes from `start` to `stop`.

    Args:
        leading: for each position, how many drafts in a row would be right if a cycle began there.
        start: position of the first cycle; a cycle with n correct drafts moves n + 1 positions.
        stop: first position where nothing is left to draft.
    """
    correct, position = [], start
    while position < stop:
        correct.append(leading[position])
        position += leading[position] + 1
    return correct


def _tau(totals: Sequence[tuple[int, int]]) -> float:
    passes = sum(verify_passes for _, verify_passes in totals)
    return 1 + sum(correct for correct, _ in totals) / passes if passes else 1.0
