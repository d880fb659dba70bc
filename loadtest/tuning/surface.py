"""The cost surface: how long a cycle takes with any tree at the measured batch sizes, from a few measured trees.

A cycle does what a baseline's step does, and more. With s steps, topk k, n draft tokens and batch size b it takes

    step_s(b) + cycle_s + draft_step_s * (s - 1) + draft_token_s * (s - 1) * k * b + node_s * (n - 1) * b

    cycle_s         building the tree, sampling, extending the draft
    draft_step_s    a forward pass of the draft; the first is part of extending it
    draft_token_s   a token of such a pass
    node_s          a node more in the target's verify pass

None of the four can be negative. They are fitted by least squares of relative errors, with a weak pull towards a round
guess, so that what no measured tree tells apart stays near that, and one tree is enough to begin with.

What is fitted are ratios cycle / step, each measured in turns with the baseline: a machine that drifts cancels out.
Owns this arithmetic. Refuses to own measuring (runs.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from loadtest.tree import Tree

GUESS = {"cycle_s": 0.1, "draft_step_s": 0.05, "draft_token_s": 0.005, "node_s": 0.02}
"""In steps of the smallest batch."""
PULL = 1e-3
"""Weight of the pull: being off by the guess itself costs as much as a ratio that is 3% off."""

Vector = Sequence[float]


@dataclass(frozen=True)
class Observed:
    """A measured ratio of cycle time to the baseline's step time."""

    tree: Tree
    batch_size: int
    ratio: float


@dataclass(frozen=True)
class Surface:
    """Costs in seconds, over the baseline's step times."""

    step_s: Mapping[int, float]
    """By batch size."""
    costs_s: tuple[float, ...]
    """In the order of GUESS."""

    @classmethod
    def fit(cls, observed: Sequence[Observed], step_s: Mapping[int, float]) -> "Surface":
        """From at least one measured batch size of the baseline."""
        guess_s = [share * step_s[min(step_s)] for share in GUESS.values()]
        rows, wanted = [], []
        for one in observed:
            share = 1 / (one.ratio * step_s[one.batch_size])
            rows.append([amount * share for amount in _amounts(one.tree, one.batch_size)])
            wanted.append(1 - 1 / one.ratio)
        for index, cost_s in enumerate(guess_s):
            rows.append([math.sqrt(PULL) / cost_s if index == column else 0.0 for column in range(len(guess_s))])
            wanted.append(math.sqrt(PULL))
        return cls(step_s, tuple(non_negative_least_squares(rows, wanted)))

    def ratio(self, tree: Tree, batch_size: int) -> float:
        """Cycle time over the baseline's step time: the tau that breaks even."""
        more_s = sum(cost * amount for cost, amount in zip(self.costs_s, _amounts(tree, batch_size), strict=True))
        return 1 + more_s / self.step_s[batch_size]


def _amounts(tree: Tree, batch_size: int) -> tuple[float, ...]:
    steps = tree.num_steps - 1
    return (1, steps, steps * tree.eagle_topk * batch_size, (tree.num_draft_tokens - 1) * batch_size)


def non_negative_least_squares(rows: Sequence[Vector], wanted: Vector) -> list[float]:
    """The x >= 0 with the least |rows x - wanted|, by trying which of its few entries are 0.

    The solution solves the unrestricted problem of its own support, so it is the best of those that are not negative.
    The columns must be independent.
    """
    columns = range(len(rows[0]))
    best, least = [0.0 for _ in columns], _squares(wanted)
    for size in columns:
        for support in combinations(columns, size + 1):
            solution = _least_squares([[row[column] for column in support] for row in rows], wanted)
            if min(solution) < 0:
                continue
            full = [0.0 for _ in columns]
            for column, value in zip(support, solution, strict=True):
                full[column] = value
            squares = _squares([_dot(row, full) - value for row, value in zip(rows, wanted, strict=True)])
            if squares < least:
                best, least = full, squares
    return best


def _least_squares(rows: Sequence[Vector], wanted: Vector) -> list[float]:
    """Of the normal equations, each column scaled to length 1."""
    columns = list(zip(*rows, strict=True))
    scales = [math.sqrt(_squares(column)) for column in columns]
    normal = [
        [_dot(one, two) / a / b for two, b in zip(columns, scales, strict=True)]
        for one, a in zip(columns, scales, strict=True)
    ]
    right = [_dot(column, wanted) / scale for column, scale in zip(columns, scales, strict=True)]
    return [value / scale for value, scale in zip(_solve(normal, right), scales, strict=True)]


def _solve(matrix: Sequence[Vector], right: Vector) -> list[float]:
    """Gauss, with pivots."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(len(rows)):
        pivot = max(range(column, len(rows)), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column]
        for row in range(column + 1, len(rows)):
            factor = rows[row][column] / head[column]
            rows[row] = [value - factor * above for value, above in zip(rows[row], head, strict=True)]
    found = [0.0] * len(rows)
    for index in reversed(range(len(rows))):
        known = sum(rows[index][later] * found[later] for later in range(index + 1, len(rows)))
        found[index] = (rows[index][-1] - known) / rows[index][index]
    return found


def _dot(one: Vector, two: Vector) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


def _squares(values: Vector) -> float:
    return _dot(values, values)
