# ruff: noqa: N803, N806, N812  shape suffixes
"""Verification: which nodes of a draft tree are kept and which token follows, so that the output is the target's own.

There are two rules. Each is exact whatever the draft is, and at temperature 0 both are greedy decoding.

`target_draw` asks the target. At each node, from the root on, it draws the target's next token; where the tree holds
that token the walk goes on there, where not the token ends it. Only such draws are ever emitted, one after the other:
given the same seed the text is that of plain decoding, to the token, and the tree decides only how many tokens one pass
yields. A node's children are accepted with the sum of their target probabilities; where they were chosen, not drawn, no
exact rule does better.

`rejection` asks the draft (section 2.1 of arXiv 2211.17192; for several children SpecInfer's recursion, 2305.09781).
A child that was drawn from `draft_prob` is taken with

    accept_prob = (target_prob / draft_prob).clamp(max=1)

and where it is not, the target's distribution becomes what its share has left over,

    target_prob = (target_prob - draft_prob).clamp(min=0), normalised

for the next child, or for the token that ends the walk. Exact, because a token x comes out with

    draft_prob(x) * accept_prob(x) + P(rejected) * residual(x)
        = min(target_prob, draft_prob)(x) + max(target_prob - draft_prob, 0)(x) = target_prob(x);

with several children the residual is a target distribution like any other, and the next child one more proposal for it.
All this asks of a child is that it was drawn from its `draft_prob` (given its elder siblings: with or without
replacement) and that it is in the tree whatever it turned out to be. So drawn tokens make chains here, which are kept
whole: EAGLE-2's reranking keeps the draws that came out likely, and those are no longer distributed as `draft_prob`.

A child that was chosen, not drawn, as all of EAGLE-2's are, is a draw from a point mass: accept_prob is its target
probability, the residual is the target without it. That is EAGLE's own `evaluate_posterior`. Child by child it makes
the very draw that `target_draw` makes at once, so on such trees both rules accept alike. A drawn child is accepted with
the sum of min(target_prob, draft_prob), where the likeliest token alone would be with its target probability: the draw
does better where both distributions are spread and agree, the likeliest token where the draft is unsure.

Owns how tokens are drawn and accepted, as pure functions of distributions and draws. Refuses to own models.

Shapes: M rows, Q nodes of a tree, V target vocabulary.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from draft_models.tree import Draw, Tree

Rule = Literal["target-draw", "rejection"]


@dataclass(frozen=True)
class Sampling:
    """How the target's tokens are drawn: from softmax(logits / temperature); 0 is greedy, its limit."""

    temperature: float
    draw: Draw

    @classmethod
    def seeded(cls, temperature: float, seed: int) -> Self:
        """Draws from a generator of their own, on the CPU whatever the models are on."""
        generator = torch.Generator().manual_seed(seed)
        return cls(temperature, lambda prob_V: int(torch.multinomial(prob_V.cpu(), 1, generator=generator)))

    def prob(self, logits_MV: Tensor) -> Tensor:
        """[M, V]. At temperature 0 all of it is on the likeliest token, the first of equals."""
        if self.temperature == 0:
            return F.one_hot(logits_MV.max(-1).indices, logits_MV.shape[-1]).float()
        return (logits_MV.float() / self.temperature).softmax(-1)

    def token(self, logits_V: Tensor) -> int:
        """One token."""
        return self.draw(self.prob(logits_V[None])[0])


GREEDY = Sampling(0.0, lambda prob_V: int(prob_V.argmax()))


def verify(rule: Rule, tree: Tree, target_prob_QV: Tensor, draw: Draw) -> tuple[list[int], int]:
    """The nodes that are kept, root first, and the token that follows the last of them."""
    return (target_draw if rule == "target-draw" else rejection)(tree, target_prob_QV, draw)


def target_draw(tree: Tree, target_prob_QV: Tensor, draw: Draw) -> tuple[list[int], int]:
    """Follow the target's own draws while they are in the tree."""
    path = [0]
    while True:
        token = draw(target_prob_QV[path[-1]])
        child = next((child for child in tree.children(path[-1]) if tree.token_Q[child] == token), None)
        if child is None:
            return path, token
        path.append(child)


def rejection(tree: Tree, target_prob_QV: Tensor, draw: Draw) -> tuple[list[int], int]:
    """Follow the children that are accepted, one after the other."""
    path = [0]
    while True:
        child, target_prob_V = _accept(tree, path[-1], target_prob_QV[path[-1]], draw)
        if child is None:
            return path, draw(target_prob_V)
        path.append(child)


def _accept(tree: Tree, node: int, target_prob_V: Tensor, draw: Draw) -> tuple[int | None, Tensor]:
    """The first child that is accepted; or none, and the distribution of the token that is then to be drawn."""
    for child in tree.children(node):
        token, draft_prob_V = tree.token_Q[child], _draft_prob(tree, child, target_prob_V)
        residual_V = (target_prob_V - draft_prob_V).clamp(min=0)
        accept_prob = (target_prob_V[token] / draft_prob_V[token]).clamp(max=1)
        if not residual_V.any():  # equal distributions: what is short of 1 is rounding, and leaves nothing to draw from
            accept_prob = torch.ones_like(accept_prob)
        if draw(torch.stack([1 - accept_prob, accept_prob])):
            return child, target_prob_V
        target_prob_V = residual_V / residual_V.sum()
    return None, target_prob_V


def _draft_prob(tree: Tree, node: int, like_V: Tensor) -> Tensor:
    """What a node was drawn from: a point mass where it was chosen."""
    if tree.draft_prob_QV is not None:
        return tree.draft_prob_QV[node]
    return torch.zeros_like(like_V).index_fill(0, torch.tensor(tree.token_Q[node], device=like_V.device), 1.0)
