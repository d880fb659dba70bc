"""What a comparison says over all its tasks, and what its sides are called.

Owns pooling. Refuses to own what is drawn of it. Where a task lacks at a batch size, or was measured on a restless
machine, there is no figure over all.
"""

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from loadtest import stats
from loadtest.comparison import Cell, Comparison, Described, Measured
from loadtest.stats import Estimate

Side = Literal["a", "b"]


class Sides(NamedTuple):
    """Two names that differ."""

    a: str
    b: str

    @classmethod
    def of(cls, comparison: Comparison) -> "Sides":
        """By what they do; where that is the same, by their letters too."""
        a, b = _name(comparison.a), _name(comparison.b)
        return cls(f"a: {a}", f"b: {b}") if a == b else cls(a, b)


def _name(side: Described) -> str:
    if side.sglang_version is None:
        return side.endpoint
    return f"{side.algorithm} {side.tree}" if side.algorithm else "plain decoding"


def whole_sizes(comparison: Comparison, quiet: Sequence[Cell]) -> list[int]:
    """Batch sizes at which every task has a result."""
    tasks = {task.name for task in comparison.workload.tasks}
    sizes = sorted({cell.batch_size for cell in quiet})
    return [size for size in sizes if {cell.task for cell in quiet if cell.batch_size == size} == tasks]


def pooled_throughput(comparison: Comparison, quiet: Sequence[Cell], side: Side) -> dict[int, Estimate]:
    """Tokens per second by batch size: the geometric mean of the tasks, round by round."""
    found = {}
    for size in whole_sizes(comparison, quiet):
        measured: list[Measured] = [getattr(cell, side) for cell in quiet if cell.batch_size == size]
        rounds = list(zip(*(each.rounds for each in measured), strict=False))
        if rounds:
            found[size] = stats.median_with_interval([statistics.geometric_mean(each) for each in rounds])
        else:
            mean = statistics.geometric_mean([each.tokens_per_s for each in measured])
            found[size] = Estimate(mean, mean, mean)
    return found


def pooled_tau(measured: Sequence[Measured]) -> float | None:
    """Acceptance length of several cells: every verify pass weighs the same, where they were counted."""
    known = [(each.acceptance_length, each.verify_passes or 1) for each in measured if each.acceptance_length]
    passes = sum(weight for _, weight in known)
    return sum(tau * weight for tau, weight in known) / passes if passes else None
