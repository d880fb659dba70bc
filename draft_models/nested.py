# ruff: noqa: N803, N806, N815  shape suffixes
"""Every smaller tree at once: what growing with s/k/n would have accepted, for all s, k and n up to a widest tree.

The target's answer is known, so each of its positions can be drafted from as if a cycle began there, and what decoding
with any tree accepts is read off: a cycle from a position accepts the drafts that lie on the answer, and the next one
begins behind them (acceptance.walk). With greedy decoding, or the target's own draws, the answer does not depend on the
tree: the counts are those of decode.py, not an estimate.

Growths with different topk are not nested: among more candidates others are the best, so that what topk 1 expands is
not always among the two best of topk 2. Here a level expands what any growth asks for, each node once, and every growth
picks and reranks among its own candidates, as tree.grow does. num_steps and num_draft_tokens need no growth of their
own: with fewer steps there are fewer candidates, and with fewer tokens fewer of them are kept.

So all that has to be known of a growth is, for each draft on the answer's path, the least num_draft_tokens that keeps
it: its place among the candidates, the root counted.

Owns this replay. Refuses to own decoding (decode.py), the tree of one shape (tree.py) and files (record.py).

Shapes: P positions, K largest topk, k topk of one growth, n nodes that one growth expands (1 root, then k), R nodes
that a level expands, E nodes expanded so far, X candidates of one growth, J depth, M tokens of one forward, D hidden
size, F tap features, C cached and current tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from draft_models.decode import DraftSession, TargetSession
from draft_models.model import DraftModel
from draft_models.target import Target
from draft_models.tree import TreeShape

Needed = dict[tuple[int, int], list[list[int]]]
"""By (num_steps, eagle_topk): for each position of an answer but its last, and each draft on the answer's path from
there, the least num_draft_tokens with which the tree holds it. Ascending: a node is kept after its parent."""

DRAFTED_TOGETHER = 32
"""Positions of one draft step."""


@torch.no_grad()
def needed_tokens(target: Target, draft: DraftModel, prompt: list[int], answer: list[int], widest: TreeShape) -> Needed:
    """Of all trees within `widest`; drafts that need more than its num_draft_tokens are left out."""
    session, read = DraftSession(draft, target.embed_VD), [*prompt, *answer[:-1]]
    taps_MF = TargetSession(target).extend(read)[1]
    hidden_MD = session.extend([*read[1:], answer[-1]], draft.fuse(taps_MF.to(draft.fc.weight.dtype)))
    steps, topks = range(1, widest.num_steps + 1), range(1, widest.eagle_topk + 1)
    needed: Needed = {shape: [] for shape in product(steps, topks)}
    for position_P in torch.split(torch.arange(len(answer) - 1, device=session.device), DRAFTED_TOGETHER):
        length_P = len(prompt) + position_P  # pairs that were read when a cycle begins there
        level = _Level.root(session, hidden_MD[length_P - 1], length_P, widest.eagle_topk)
        growths = [_Growth(topk, len(position_P), session.device) for topk in topks]
        for depth in steps:
            if depth > 1:
                level = _next_level(session, level, growths, depth)
            next_P = torch.tensor(_following(answer, position_P, depth), device=session.device)
            for growth in growths:
                growth.grow(level, next_P)
                needed[depth, growth.topk] += growth.needed(widest.num_draft_tokens)
        session.key_CGd, session.value_CGd = session.key_CGd[: session.length], session.value_CGd[: session.length]
    return needed


@dataclass(frozen=True)
class _Level:
    """The nodes of one depth that some growth expands, and the K likeliest tokens after each."""

    hidden_RD: Tensor
    length_R: Tensor
    """Verified pairs that a node may see."""
    seen_RE: Tensor
    """Which expanded nodes it may see: its ancestors and itself."""
    log_prob_RK: Tensor
    token_RK: Tensor

    @classmethod
    def root(cls, session: DraftSession, hidden_PD: Tensor, length_P: Tensor, topk: int) -> "_Level":
        """The last verified token of each position."""
        nothing_PE = torch.empty(len(length_P), 0, dtype=torch.bool, device=session.device)
        return cls(hidden_PD, length_P, nothing_PE, *_likeliest(session, hidden_PD, topk))

    def expand(self, session: DraftSession, child_R: Tensor, depth: int) -> "_Level":
        """One draft step on some of its children, each an index into [R * K]."""
        topk = self.token_RK.shape[1]
        parent_R, token_R = child_R // topk, self.token_RK.flatten()[child_R]
        length_R, itself_RR = self.length_R[parent_R], torch.eye(len(child_R), dtype=torch.bool, device=session.device)
        seen_RE = torch.cat([self.seen_RE[parent_R], itself_RR], dim=1)
        past_RC = torch.arange(session.length, device=session.device) < length_R[:, None]
        mask_RC = torch.cat([past_RC, seen_RE], dim=1)
        hidden_RD = session.forward(token_R, self.hidden_RD[parent_R], length_R + depth - 1, mask_RC)
        return _Level(hidden_RD, length_R, seen_RE, *_likeliest(session, hidden_RD, topk))


class _Growth:
    """EAGLE's growth with one topk, at P positions side by side, and where the answer's path lies in it."""

    def __init__(self, topk: int, positions: int, device: torch.device) -> None:
        self.topk = topk
        self.node_Pn = torch.arange(positions, device=device)[:, None]
        """What it expands next: rows of a level."""
        self.child_Pk = self.node_Pn
        """The same, as children of the level before."""
        self._value_Pn = torch.zeros(positions, 1, device=device)
        self._path_Pn = torch.ones(positions, 1, dtype=torch.bool, device=device)
        self._values: list[Tensor] = []
        self._on_path: list[Tensor] = []

    def grow(self, level: _Level, next_P: Tensor) -> None:
        """Its nodes' children become candidates; the k likeliest of them are what it expands next."""
        topk, most = self.topk, level.token_RK.shape[1]
        log_prob_Pnk, token_Pnk = level.log_prob_RK[self.node_Pn, :topk], level.token_RK[self.node_Pn, :topk]
        value_PX = (self._value_Pn[:, :, None] + log_prob_Pnk).flatten(1)
        path_PX = (self._path_Pn[:, :, None] & (token_Pnk == next_P[:, None, None])).flatten(1)
        child_PX = (self.node_Pn[:, :, None] * most + torch.arange(topk, device=next_P.device)).flatten(1)
        self._value_Pn, picked_Pk = value_PX.topk(topk)
        self._path_Pn, self.child_Pk = path_PX.gather(1, picked_Pk), child_PX.gather(1, picked_Pk)
        self._values.append(value_PX)
        self._on_path.append(path_PX)

    def needed(self, most: int) -> list[list[int]]:
        """By position, of the tree that ends here: num_draft_tokens of the drafts on the path, up to `most`."""
        value_PX, path_PX = torch.cat(self._values, dim=1), torch.cat(self._on_path, dim=1)
        order_PX = torch.sort(value_PX, descending=True, stable=True).indices
        kept_PX = path_PX.gather(1, order_PX)[:, : most - 1].nonzero().tolist()  # the root is one of `most`
        needed: list[list[int]] = [[] for _ in range(len(value_PX))]
        for position, place in kept_PX:
            needed[position].append(place + 2)
        return needed


def _next_level(session: DraftSession, level: _Level, growths: Sequence[_Growth], depth: int) -> _Level:
    """Expand what any growth asks for, each node once."""
    asked = [growth.child_Pk for growth in growths]
    child_R, row = torch.unique(torch.cat([child_Pk.flatten() for child_Pk in asked]), return_inverse=True)
    for growth, row_X in zip(growths, torch.split(row, [child_Pk.numel() for child_Pk in asked]), strict=True):
        growth.node_Pn = row_X.view(-1, growth.topk)
    return level.expand(session, child_R, depth - 1)


def _likeliest(session: DraftSession, hidden_RD: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    log_prob_RK, id_RK = session.log_probs(hidden_RD).topk(topk)
    return log_prob_RK, session.draft.target_ids(id_RK)


def _following(answer: Sequence[int], position_P: Tensor, depth: int) -> list[int]:
    """The answer's token at that depth below each position; -1 behind its end."""
    places = (position + depth for position in position_P.tolist())
    return [answer[place] if place < len(answer) else -1 for place in places]
