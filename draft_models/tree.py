# ruff: noqa: N803, N806, N815  shape suffixes
"""The draft tree: EAGLE-2's (arXiv 2406.16858, sections 4.1 and 4.2; kept by EAGLE-3), grown by confidence, then
reranked; or a chain of tokens drawn from the draft (arXiv 2211.17192, section 2.1).

Node 0 is the root, the last token the target has verified; nodes are numbered so that parents come before children.
Owns the tree's shape and how it grows, as pure functions. Refuses to own models and caches, and what is accepted of it
(verify.py).

Shapes: K topk, Q nodes of the final tree (root included), W draft vocabulary, V target vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from draft_models.errors import ConfigError


@dataclass(frozen=True)
class TreeShape:
    """`num_steps/eagle_topk/num_draft_tokens`, as SGLang counts: the root is one of num_draft_tokens."""

    num_steps: int
    eagle_topk: int
    num_draft_tokens: int

    def __post_init__(self) -> None:
        steps, topk, tokens = self.num_steps, self.eagle_topk, self.num_draft_tokens
        largest = 1 + topk + (steps - 1) * topk**2
        if min(steps, topk) < 1 or not steps + 1 <= tokens <= largest:
            raise ConfigError(f"tree {self}: num_draft_tokens has to be within {steps + 1}..{largest}")

    def __str__(self) -> str:
        return f"{self.num_steps}/{self.eagle_topk}/{self.num_draft_tokens}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `3/4/8`."""
        try:
            steps, topk, tokens = map(int, text.split("/"))
        except ValueError as error:
            raise ConfigError(f"tree {text!r}: write num_steps/eagle_topk/num_draft_tokens, like 3/4/8") from error
        return cls(steps, topk, tokens)

    @classmethod
    def chain(cls, num_steps: int) -> Self:
        """topk 1."""
        return cls(num_steps, 1, num_steps + 1)


@dataclass(frozen=True)
class Tree:
    """A draft tree as the target verifies it."""

    token_Q: list[int]
    parent_Q: list[int]
    """The root's parent is -1."""
    depth_Q: list[int]
    mask_QQ: Tensor
    """Query q may see node k exactly when k is q or one of its ancestors."""
    draft_prob_QV: Tensor | None = None
    """What each node was drawn from (the root's row says nothing); None: the nodes were chosen, not drawn."""

    @classmethod
    def of(cls, tokens: Sequence[int], parents: Sequence[int], draft_prob_QV: Tensor | None = None) -> Self:
        """From tokens and parents, parents first."""
        depths: list[int] = []
        mask_QQ = torch.eye(len(tokens), dtype=torch.bool, device="cpu")
        for node, parent in enumerate(parents):
            assert parent < node
            depths.append(0 if parent < 0 else depths[parent] + 1)
            if parent >= 0:
                mask_QQ[node] |= mask_QQ[parent]
        return cls(list(tokens), list(parents), depths, mask_QQ, draft_prob_QV)

    def children(self, node: int) -> list[int]:
        """The nodes after this one, in the order they were proposed."""
        return [child for child, parent in enumerate(self.parent_Q) if parent == node]


Expand = Callable[[Tensor, Tensor, int], Tensor]
"""(tokens_K, parents_K, depth) -> log-probabilities [K, W] of what follows each of these K nodes.

`parents_K` are indices into the K nodes of the call before (ignored at depth 1, where all follow the root).
"""

Draw = Callable[[Tensor], int]
"""An index, drawn with the probabilities given. Decoding knows no other randomness, so a test can take every branch."""


def grow(root: int, first_W: Tensor, expand: Expand, target_ids: Callable[[Tensor], Tensor], shape: TreeShape) -> Tree:
    """Expand the K likeliest nodes of each level, then keep the likeliest num_draft_tokens - 1 of all that were seen.

    A node's value is the product of the confidences on its path, so no node beats its own parent and whatever is kept
    is a tree (section 4.2). Ties go to the node seen first, and parents are seen first.
    """
    topk, device = shape.eagle_topk, first_W.device
    value_K, id_K = first_W.topk(topk)
    token_K, node_K = target_ids(id_K), torch.arange(1, topk + 1, device=device)
    values, tokens, parents = [value_K], [token_K], [torch.zeros_like(node_K)]
    picked_K, seen = torch.arange(topk, device=device), topk
    for depth in range(1, shape.num_steps):
        more_KK, id_KK = expand(token_K, picked_K // topk, depth).topk(topk)
        value_X = (value_K[:, None] + more_KK).flatten()
        token_X = target_ids(id_KK.flatten())
        values.append(value_X)
        tokens.append(token_X)
        parents.append(node_K.repeat_interleave(topk))
        value_K, picked_K = value_X.topk(topk)
        token_K, node_K = token_X[picked_K], seen + 1 + picked_K
        seen += topk**2
    return _rerank(root, torch.cat(values), torch.cat(tokens), torch.cat(parents), shape.num_draft_tokens)


def draw_chain(
    root: int, first_W: Tensor, expand: Expand, proposal: Callable[[Tensor], Tensor], draw: Draw, num_steps: int
) -> Tree:
    """Draw each token from what the draft proposes after the one before.

    `proposal` turns log-probabilities [W] into the probabilities [V] that are drawn from.
    """
    draft_probs = [proposal(first_W)]
    tokens = [root, draw(draft_probs[0])]
    for depth in range(1, num_steps):
        token_1 = torch.tensor(tokens[-1:], device=first_W.device)
        draft_probs.append(proposal(expand(token_1, torch.zeros_like(token_1), depth)[0]))
        tokens.append(draw(draft_probs[-1]))
    return Tree.of(tokens, range(-1, num_steps), torch.stack([torch.zeros_like(draft_probs[0]), *draft_probs]))


def _rerank(root: int, value_X: Tensor, token_X: Tensor, parent_X: Tensor, num_draft_tokens: int) -> Tree:
    kept = torch.sort(value_X, descending=True, stable=True).indices[: num_draft_tokens - 1].sort().values
    number = {0: 0} | {node + 1: place for place, node in enumerate(kept.tolist(), start=1)}
    parents = [-1] + [number[parent] for parent in parent_X[kept].tolist()]
    return Tree.of([root, *token_X[kept].tolist()], parents)
