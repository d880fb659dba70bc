"""A token tree as it grows: EAGLE-2's context-aware expansion (arXiv 2406.16858, section 4), which EAGLE-3 keeps.

SGLang does it with tensors (select_top_k_tokens in speculative/spec_utils.py, organize_draft_results in
eagle_utils.py). Trees have some dozens of candidates: on lists they grow in less time than the tensors take to handle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT = -1


class Candidate(NamedTuple):
    """A drafted token."""

    score: float  # the product of the probabilities on its path, the draft's estimate that it will be accepted
    token: int
    parent: int  # its place among the candidates, or ROOT


@dataclass
class Growth:
    """One request's tree: from each of a step's likeliest `branches` tokens come as many of the next. 1: a chain."""

    branches: int
    candidates: list[Candidate] = field(default_factory=list)
    leaves: list[int] = field(default_factory=lambda: [ROOT])

    def add(self, probs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> list[int]:
        """What follows each leaf becomes candidates, the likeliest of them the new leaves: which leaf each follows."""
        first = len(self.candidates)
        for leaf, likely, drafted in zip(self.leaves, probs, tokens, strict=True):
            score = 1.0 if leaf == ROOT else self.candidates[leaf].score
            self.candidates += [Candidate(score * p, t, leaf) for p, t in zip(likely, drafted, strict=True)]
        self.leaves = self._likeliest(first, self.branches)
        return [(leaf - first) // self.branches for leaf in self.leaves]

    def leaf_tokens(self) -> list[int]:
        """What the draft model reads next."""
        return [self.candidates[leaf].token for leaf in self.leaves]

    def kept(self, size: int) -> tuple[list[int], list[int]]:
        """The likeliest `size` candidates in order: their tokens, and the parent of every node, node 0 being the root.

        Nobody is likelier than its parent, which comes first among equals: so all parents are kept.
        """
        kept = sorted(self._likeliest(0, size))
        node = {ROOT: 0} | {place: i + 1 for i, place in enumerate(kept)}
        found = [self.candidates[place] for place in kept]
        return [one.token for one in found], [ROOT, *(node[one.parent] for one in found)]

    def _likeliest(self, first: int, count: int) -> list[int]:
        """From the place `first` on; the earlier of equals."""
        return sorted(range(first, len(self.candidates)), key=lambda place: -self.candidates[place].score)[:count]
