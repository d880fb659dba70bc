"""The search: measure two unlike trees, then the one that looks best, until that is one that was measured.

Every measured tree does both: it sharpens the cost surface, and it is a candidate whose cycle time is known.

Owns which tree is measured next and when that is enough. Refuses to own measuring: that is passed in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from loadtest.asking import Say
from loadtest.errors import BenchError
from loadtest.tree import Tree
from loadtest.tuning.evidence import Evidence, Run, Traffic
from loadtest.tuning.recording import Recording

CORNERS = (Tree(2, 1, 3), Tree(5, 4, 16))
"""Where to begin: a short chain and a deep tree, so unlike that each part of a cycle shows in one of them. Trees of
twice the size are seldom worth their pass anywhere, and would bend the fit where it matters."""
WORTH_A_START = 0.02
"""A tree that promises less over the best measured one is not measured: no few rounds could tell."""

Measure = Callable[[Tree], Awaitable[Run]]


@dataclass(frozen=True)
class Found:
    """What a search ended with."""

    evidence: Evidence
    interrupted: bool = False


@dataclass(frozen=True)
class Search:
    """Within these trees, with at most so many measured."""

    recording: Recording
    traffic: Traffic
    candidates: Sequence[Tree]
    most_runs: int

    async def run(self, measure: Measure, say: Say) -> Found:
        """A tree that cannot be measured is left out; a cancellation keeps what was measured.

        Raises:
            BenchError: no tree could be measured.
        """
        evidence, failed = Evidence.of(self.recording, self.traffic, ()), dict[Tree, BenchError]()
        while len(evidence.runs) + len(failed) < self.most_runs:
            tree = self._next(evidence, failed.keys())
            if tree is None:
                break
            if evidence.runs:
                say(f"next {tree}: predicted speedup {evidence.speedup(tree):.2f}, tau {evidence.tau(tree):.2f}")
            try:
                run = await measure(tree)
            except BenchError as failure:
                failed[tree] = failure
                say(f"{tree} is left out: {failure}")
                continue
            except asyncio.CancelledError:
                if not evidence.runs:
                    raise
                return Found(evidence, interrupted=True)
            evidence = Evidence.of(self.recording, self.traffic, [*evidence.runs.values(), run])
        if not evidence.runs:
            raise next(iter(failed.values()))
        return Found(evidence)

    def _next(self, evidence: Evidence, failed: Collection[Tree]) -> Tree | None:
        """None: the best known one is good enough."""
        tried = {*evidence.runs, *failed}
        for corner in map(self._nearest, CORNERS[len(tried) :]):
            if corner not in tried:
                return corner
        if not evidence.runs:
            return None
        best = max((tree for tree in self.candidates if tree not in failed), key=evidence.speedup)
        if evidence.speedup(best) <= evidence.speedup(best_measured(evidence)) * (1 + WORTH_A_START):
            return None
        return best

    def _nearest(self, corner: Tree) -> Tree:
        """The candidate most like it."""

        def unlike(tree: Tree) -> int:
            numbers = zip(_numbers(tree), _numbers(corner), strict=True)
            return sum(abs(ours - theirs) for ours, theirs in numbers)

        return min(self.candidates, key=unlike)


def best_measured(evidence: Evidence) -> Tree:
    """Of the runs."""
    return max(evidence.runs, key=evidence.speedup)


def _numbers(tree: Tree) -> tuple[int, int, int]:
    return tree.num_steps, tree.eagle_topk, tree.num_draft_tokens
