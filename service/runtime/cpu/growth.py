"""A token tree as it grows: EAGLE-2's context-aware expansion (arXiv 2406.16858, section 4), which EAGLE-3 keeps.

SGLang does it with tensors (select_top_k_tokens in speculative/spec_utils.py, organize_draft_results in
eagle_utils.py). Trees have some dozens of candidates: on lists they grow in less time than the tensors take to handle.

The product of the draft's probabilities on a node's path says quite well how likely the target is to accept it
(section 3 there; docs/log.md for this draft). So a tree need not have the same size in every cycle: with `p_min`, a
node is verified only if it is at least that likely to be accepted, and the draft model runs again only while it pays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT = -1
PASS_COST = 3
"""What a pass of the draft model costs, in nodes that are verified (docs/log.md)."""
CONTINUED = 0.65
"""How often, roughly, the draft knows what follows a node that is accepted."""


def p_min_at(p_min: Mapping[int, float], batch_size: int) -> float:
    """The value of the last row that begins at or below a batch size; 0, which keeps every node, without one."""
    return p_min[max(rows)] if (rows := [size for size in p_min if size <= batch_size]) else 0.0


class Candidate(NamedTuple):
    """A drafted token."""

    score: float  # the product of the probabilities on its path, the draft's estimate that it will be accepted
    token: int
    parent: int  # its place among the candidates, or ROOT


@dataclass
class Growth:
    """One request's tree: from each of a step's likeliest `branches` tokens come as many of the next. 1: a chain."""

    branches: int
    p_min: float = 0.0  # nodes that are less likely to be accepted are neither verified nor continued
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
        """The likeliest `size` candidates at most, in order: tokens, and the parent of every node, 0 being the root.

        Nobody is likelier than its parent, which comes first among equals: so all parents are kept.
        """
        kept = sorted(self._likeliest(0, size))
        node = {ROOT: 0} | {place: i + 1 for i, place in enumerate(kept)}
        found = [self.candidates[place] for place in kept]
        return [one.token for one in found], [ROOT, *(node[one.parent] for one in found)]

    def gain(self) -> float:
        """How many accepted tokens another step may bring, less what verifying them costs."""
        return sum(max(0.0, CONTINUED * self.candidates[leaf].score - self.p_min) for leaf in self.leaves)

    def _likeliest(self, first: int, count: int) -> list[int]:
        """From the place `first` on; the earlier of equals."""
        likely = [place for place in range(first, len(self.candidates)) if self.candidates[place].score >= self.p_min]
        return sorted(likely, key=lambda place: -self.candidates[place].score)[:count]


def pays(growths: Iterable[Growth], p_min: float) -> bool:
    """Whether one more pass of the draft model, for all trees at once, brings more than it costs."""
    return sum(tree.gain() for tree in growths) > PASS_COST * p_min
