"""Exact distributions of random decisions: every branch of every draw is taken once, weighed by its probability."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TypeVar

from torch import Tensor

from draft_models.tree import Draw

Outcome = TypeVar("Outcome", bound=Hashable)


def outcomes(decide: Callable[[Draw], Outcome]) -> dict[Outcome, float]:
    """P(decide(draw) = outcome), if `decide` is a function of its draws and of nothing else."""
    found: dict[Outcome, float] = defaultdict(float)
    pending: list[list[int]] = [[]]
    while pending:
        branch = _Branch(pending.pop(), pending)
        outcome = decide(branch.draw)
        found[outcome] += branch.weight
    return dict(found)


class _Branch:
    """Draws as the script says; past its end the first possibility, leaving scripts of the others in `pending`."""

    def __init__(self, script: list[int], pending: list[list[int]]) -> None:
        self.script, self.pending, self.taken, self.weight = script, pending, 0, 1.0

    def draw(self, prob: Tensor) -> int:
        if self.taken == len(self.script):
            first, *others = prob.nonzero().flatten().tolist()
            self.pending += [[*self.script, other] for other in others]
            self.script.append(first)
        choice = self.script[self.taken]
        self.taken += 1
        self.weight *= float(prob[choice] / prob.sum())
        return choice
