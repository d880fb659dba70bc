# ruff: noqa: N803, N806  shape suffixes
"""The reference decoder: plain decoding, and EAGLE-3 with a draft tree, one prompt at a time, nothing clever.

It is the executable specification of losslessness. Each cycle: the draft reads the target's features of what was
accepted and grows a tree, the target verifies all of it in one pass under the tree's mask, and every node gets the
target's own choice for what follows. Greedily that choice is the argmax, so the output is plain decoding's. When
sampling it is a draw from the target's distribution at that node, and the walk (tree.accepted_path) only ever emits
such draws: the output is distributed as the target's own, whatever the draft proposed.

Owns the caches of both models during one decode. Refuses to be fast: SGLang is.

Shapes: M tokens of one forward, Q nodes of a tree, C cached and current tokens, D hidden size, F tap features,
V target vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from draft_models.acceptance import Acceptance
from draft_models.attention import cached_attention
from draft_models.model import DraftModel
from draft_models.target import Target
from draft_models.tree import Tree, TreeShape, accepted_path, grow

Choose = Callable[[Tensor], list[int]]
"""The target's choice at each row of logits_MV."""


@dataclass(frozen=True)
class Decoded:
    """Generated ids (an end-of-sequence token included), and correct drafts of every verify pass."""

    ids: list[int]
    correct_drafts: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> Acceptance:
        """Counts for tau and n-alpha."""
        return Acceptance.of(self.correct_drafts)


def greedy(logits_MV: Tensor) -> list[int]:
    """The likeliest token of each row."""
    return [int(token) for token in logits_MV.max(-1).indices]


def sampler(temperature: float, seed: int) -> Choose:
    """One draw per row from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)

    def sample(logits_MV: Tensor) -> list[int]:
        prob_MV = (logits_MV.float() / temperature).softmax(-1)
        return [int(token) for token in torch.multinomial(prob_MV, 1, generator=generator)[:, 0]]

    return sample


@torch.no_grad()
def decode_plain(target: Target, prompt: list[int], max_tokens: int, eos: set[int], choose: Choose = greedy) -> Decoded:
    """One token per forward pass of the target."""
    session = TargetSession(target)
    ids = choose(target.logits(session.extend(prompt)[0][-1:]))
    while len(ids) < max_tokens and ids[-1] not in eos:
        ids += choose(target.logits(session.extend(ids[-1:])[0]))
    return Decoded(ids)


@torch.no_grad()
def decode(
    target: Target,
    draft: DraftModel,
    prompt: list[int],
    max_tokens: int,
    eos: set[int],
    shape: TreeShape,
    choose: Choose = greedy,
) -> Decoded:
    """As `decode_plain`, in draft-and-verify cycles."""
    session, drafting = TargetSession(target), DraftSession(draft, target.embed_VD)
    final_MD, taps_MF = session.extend(prompt)
    ids = choose(target.logits(final_MD[-1:]))
    following = [*prompt[1:], *ids]  # each feature is paired with the token after its own
    correct_drafts = []
    while len(ids) < max_tokens and ids[-1] not in eos:
        tree = drafting.propose(following, taps_MF, shape)
        final_QD, taps_QF = session.verify(tree)
        target_token_Q = choose(target.logits(final_QD))
        path = accepted_path(tree, target_token_Q)
        following = [target_token_Q[node] for node in path]
        path = path[: _end(following, eos, max_tokens - len(ids))]
        following = following[: len(path)]
        session.keep(path)
        taps_MF = taps_QF[path]
        ids += following
        correct_drafts.append(len(path) - 1)
    return Decoded(ids, correct_drafts)


class TargetSession:
    """The target's key-value cache along one sequence."""

    def __init__(self, target: Target) -> None:
        self.target, self.cache, self.length = target, DynamicCache(), 0

    def extend(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Read tokens for good: final hidden states [M, D] and taps [M, F]."""
        new = len(ids)
        mask_MC = torch.ones(new, self.length + new, dtype=torch.bool).tril(self.length)
        found = self.target.forward(torch.tensor(ids), self.length + torch.arange(new), self.cache, mask_MC)
        self.length += new
        return found

    def verify(self, tree: Tree) -> tuple[Tensor, Tensor]:
        """Read a whole tree at once, each node after its ancestors only; `keep` decides what stays."""
        past_QC = torch.ones(len(tree.token_Q), self.length, dtype=torch.bool)
        position_Q = self.length + torch.tensor(tree.depth_Q)
        mask_QC = torch.cat([past_QC, tree.mask_QQ], dim=1)
        return self.target.forward(torch.tensor(tree.token_Q), position_Q, self.cache, mask_QC)

    def keep(self, path: list[int]) -> None:
        """Of the tree just verified, keep the nodes on `path`."""
        kept_C = torch.cat([torch.arange(self.length), self.length + torch.tensor(path)])
        for layer in self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = layer.keys[:, :, kept_C], layer.values[:, :, kept_C]
        self.length += len(path)


class DraftSession:
    """The draft's key-value cache along one sequence: verified pairs first, then one tree, dropped after use."""

    def __init__(self, draft: DraftModel, embed_VD: Tensor) -> None:
        self.draft, self.embed_VD, self.length = draft, embed_VD, 0
        config = draft.config
        empty = torch.empty(0, config.num_key_value_heads, config.head_dim, dtype=draft.fc.weight.dtype)
        self.key_CGd, self.value_CGd = empty, empty

    def propose(self, following: list[int], taps_MF: Tensor, shape: TreeShape) -> Tree:
        """Read newly verified (feature, next token) pairs, then grow a tree from the last of them."""
        hidden_MD = self.extend(following, self.draft.fuse(taps_MF.to(self.draft.fc.weight.dtype)))
        first_W = self.log_probs(hidden_MD[-1:])[0]
        frontier = _Frontier(self, hidden_MD[-1:].expand(shape.eagle_topk, -1), shape.eagle_topk)
        tree = grow(following[-1], first_W, frontier.expand, self.draft.target_ids, shape)
        self.key_CGd, self.value_CGd = self.key_CGd[: self.length], self.value_CGd[: self.length]
        return tree

    def extend(self, following: list[int], hidden_MD: Tensor) -> Tensor:
        """Read pairs for good: the draft's outputs [M, D]."""
        new = len(following)
        mask_MC = torch.ones(new, self.length + new, dtype=torch.bool).tril(self.length)
        out_MD = self.forward(torch.tensor(following), hidden_MD, self.length + torch.arange(new), mask_MC)
        self.length += new
        return out_MD

    def forward(self, ids_M: Tensor, hidden_MD: Tensor, position_M: Tensor, mask_MC: Tensor) -> Tensor:
        """One draft step over the cache, which grows by M entries."""

        def attend(query_MHd: Tensor, key_MGd: Tensor, value_MGd: Tensor) -> Tensor:
            self.key_CGd = torch.cat([self.key_CGd, key_MGd])
            self.value_CGd = torch.cat([self.value_CGd, value_MGd])
            return cached_attention(query_MHd, self.key_CGd, self.value_CGd, mask_MC)

        embed_MD = self.embed_VD[ids_M].to(hidden_MD.dtype)
        out_MD: Tensor = self.draft(embed_MD, hidden_MD, position_M, attend)
        return out_MD

    def log_probs(self, hidden_MD: Tensor) -> Tensor:
        """Over the draft vocabulary, [M, W]."""
        return self.draft.logits(hidden_MD).float().log_softmax(-1)


class _Frontier:
    """The K nodes being expanded: their features, and which of the tree's cache entries they may see."""

    def __init__(self, session: DraftSession, hidden_KD: Tensor, topk: int) -> None:
        self.session, self.hidden_KD, self.topk = session, hidden_KD, topk
        self.seen_KX = torch.empty(topk, 0, dtype=torch.bool)

    def expand(self, token_K: Tensor, parent_K: Tensor, depth: int) -> Tensor:
        """tree.Expand: one draft step on the K nodes; each sees the verified prefix, its ancestors and itself."""
        if depth > 1:
            self.hidden_KD, self.seen_KX = self.hidden_KD[parent_K], self.seen_KX[parent_K]
        self.seen_KX = torch.cat([self.seen_KX, torch.eye(self.topk, dtype=torch.bool)], dim=1)
        past_KC = torch.ones(self.topk, self.session.length, dtype=torch.bool)
        position_K = torch.full((self.topk,), self.session.length + depth - 1)
        mask_KC = torch.cat([past_KC, self.seen_KX], dim=1)
        self.hidden_KD = self.session.forward(token_K, self.hidden_KD, position_K, mask_KC)
        return self.session.log_probs(self.hidden_KD)


def _end(following: list[int], eos: set[int], room: int) -> int:
    """How many tokens of a cycle are emitted: up to an end of sequence or the limit."""
    stops = [place + 1 for place, token in enumerate(following) if token in eos]
    return min([room, len(following), *stops])
