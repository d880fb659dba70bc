# ruff: noqa: N803, N806  shape suffixes
"""The reference decoder: plain decoding, and EAGLE-3 with a draft tree, one prompt at a time, nothing clever.

It is the executable specification of losslessness. Each cycle: the draft reads the target's features of what was
accepted and proposes a tree, the target reads all of it in one pass under the tree's mask, and verify.py decides on the
distributions it finds there which nodes are kept and which token follows. Greedily the output is plain decoding's;
sampled it is distributed as plain decoding's, whatever the draft proposed, by either rule.

Owns the caches of both models during one decode. Refuses to be fast: SGLang is.

Shapes: M tokens of one forward, Q nodes of a tree, C cached and current tokens, D hidden size, F tap features,
V target vocabulary, W draft vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from draft_models.acceptance import Acceptance
from draft_models.attention import cached_attention
from draft_models.model import DraftModel
from draft_models.target import Target
from draft_models.tree import Tree, TreeShape, draw_chain, grow
from draft_models.verify import GREEDY, Rule, Sampling, verify


@dataclass(frozen=True)
class Decoded:
    """Generated ids (an end-of-sequence token included), and correct drafts of every verify pass."""

    ids: list[int]
    correct_drafts: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> Acceptance:
        """Counts for tau and n-alpha."""
        return Acceptance.of(self.correct_drafts)


@torch.no_grad()
def decode_plain(
    target: Target, prompt: list[int], max_tokens: int, eos: set[int], sampling: Sampling = GREEDY
) -> Decoded:
    """One token per forward pass of the target."""
    session = TargetSession(target)
    ids = [sampling.token(target.logits(session.extend(prompt)[0][-1]))]
    while len(ids) < max_tokens and ids[-1] not in eos:
        ids.append(sampling.token(target.logits(session.extend(ids[-1:])[0][-1])))
    return Decoded(ids)


@torch.no_grad()
def decode(
    target: Target,
    draft: DraftModel,
    prompt: list[int],
    max_tokens: int,
    eos: set[int],
    shape: TreeShape,
    sampling: Sampling = GREEDY,
    rule: Rule = "target-draw",
) -> Decoded:
    """As `decode_plain`, in draft-and-verify cycles.

    Under `rejection` a chain's tokens are drawn from the draft, at the same temperature; a tree's are its likeliest.
    """
    session, drafting = TargetSession(target), DraftSession(draft, target.embed_VD)
    drawn = sampling if rule == "rejection" and shape.eagle_topk == 1 else None
    final_MD, taps_MF = session.extend(prompt)
    ids = [sampling.token(target.logits(final_MD[-1]))]
    following = [*prompt[1:], *ids]  # each feature is paired with the token after its own
    correct_drafts = []
    while len(ids) < max_tokens and ids[-1] not in eos:
        tree = drafting.propose(following, taps_MF, shape, drawn)
        final_QD, taps_QF = session.verify(tree)
        path, token = verify(rule, tree, sampling.prob(target.logits(final_QD)), sampling.draw)
        following = [*(tree.token_Q[node] for node in path[1:]), token]
        following = following[: _end(following, eos, max_tokens - len(ids))]
        path = path[: len(following)]
        session.keep(path)
        taps_MF = taps_QF[path]
        ids += following
        correct_drafts.append(len(path) - 1)
    return Decoded(ids, correct_drafts)


class TargetSession:
    """The target's key-value cache along one sequence."""

    def __init__(self, target: Target) -> None:
        self.target, self.cache, self.length = target, DynamicCache(), 0
        self.device = target.embed_VD.device

    def extend(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Read tokens for good: final hidden states [M, D] and taps [M, F]."""
        new = len(ids)
        position_M = torch.arange(self.length, self.length + new, device=self.device)
        mask_MC = _causal(new, self.length, self.device)
        found = self.target.forward(self._tensor(ids), position_M, self.cache, mask_MC)
        self.length += new
        return found

    def verify(self, tree: Tree) -> tuple[Tensor, Tensor]:
        """Read a whole tree at once, each node after its ancestors only; `keep` decides what stays."""
        past_QC = torch.ones(len(tree.token_Q), self.length, dtype=torch.bool, device=self.device)
        mask_QC = torch.cat([past_QC, tree.mask_QQ.to(self.device)], dim=1)
        position_Q = self.length + self._tensor(tree.depth_Q)
        return self.target.forward(self._tensor(tree.token_Q), position_Q, self.cache, mask_QC)

    def keep(self, path: list[int]) -> None:
        """Of the tree just verified, keep the nodes on `path`."""
        kept_C = torch.cat([torch.arange(self.length, device=self.device), self.length + self._tensor(path)])
        for layer in self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = layer.keys[:, :, kept_C], layer.values[:, :, kept_C]
        self.length += len(path)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.device)


class DraftSession:
    """The draft's key-value cache along one sequence: verified pairs first, then one tree, dropped after use."""

    def __init__(self, draft: DraftModel, embed_VD: Tensor) -> None:
        self.draft, self.embed_VD, self.length = draft, embed_VD, 0
        config, weight = draft.config, draft.fc.weight
        self.device = weight.device
        empty = weight.new_empty(0, config.num_key_value_heads, config.head_dim)
        self.key_CGd, self.value_CGd = empty, empty

    def propose(self, following: list[int], taps_MF: Tensor, shape: TreeShape, drawn: Sampling | None = None) -> Tree:
        """Read newly verified (feature, next token) pairs, then propose what follows the last of them.

        The likeliest tokens, as a tree; with `drawn`, a chain of draws.
        """
        hidden_MD = self.extend(following, self.draft.fuse(taps_MF.to(self.draft.fc.weight.dtype)))
        root, first_W = following[-1], self.log_probs(hidden_MD[-1:])[0]
        expand = _Frontier(self, hidden_MD[-1:].expand(shape.eagle_topk, -1), shape.eagle_topk).expand
        if drawn:
            tree = draw_chain(root, first_W, expand, partial(self.proposal, drawn), drawn.draw, shape.num_steps)
        else:
            tree = grow(root, first_W, expand, self.draft.target_ids, shape)
        self.key_CGd, self.value_CGd = self.key_CGd[: self.length], self.value_CGd[: self.length]
        return tree

    def proposal(self, drawn: Sampling, log_prob_W: Tensor) -> Tensor:
        """The draft's distribution over the target's vocabulary, [V]: nothing on tokens it does not know."""
        draft_prob_W = drawn.prob(log_prob_W[None])[0]
        every_W = torch.arange(len(log_prob_W), device=self.device)
        return draft_prob_W.new_zeros(len(self.draft.t2d)).index_copy(0, self.draft.target_ids(every_W), draft_prob_W)

    def extend(self, following: list[int], hidden_MD: Tensor) -> Tensor:
        """Read pairs for good: the draft's outputs [M, D]."""
        new = len(following)
        following_M = torch.tensor(following, device=self.device)
        position_M = torch.arange(self.length, self.length + new, device=self.device)
        out_MD = self.forward(following_M, hidden_MD, position_M, _causal(new, self.length, self.device))
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
        self.seen_KX = torch.empty(topk, 0, dtype=torch.bool, device=session.device)

    def expand(self, token_K: Tensor, parent_K: Tensor, depth: int) -> Tensor:
        """tree.Expand: one draft step on the K nodes; each sees the verified prefix, its ancestors and itself."""
        if depth > 1:
            self.hidden_KD, self.seen_KX = self.hidden_KD[parent_K], self.seen_KX[parent_K]
        device, topk, length = self.session.device, self.topk, self.session.length
        self.seen_KX = torch.cat([self.seen_KX, torch.eye(topk, dtype=torch.bool, device=device)], dim=1)
        past_KC = torch.ones(topk, length, dtype=torch.bool, device=device)
        position_K = torch.full((topk,), length + depth - 1, device=device)
        mask_KC = torch.cat([past_KC, self.seen_KX], dim=1)
        self.hidden_KD = self.session.forward(token_K, self.hidden_KD, position_K, mask_KC)
        return self.session.log_probs(self.hidden_KD)


def _causal(new: int, past: int, device: torch.device) -> Tensor:
    """Each of the new tokens sees all of the past, and of the new ones those up to itself."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


def _end(following: list[int], eos: set[int], room: int) -> int:
    """How many tokens of a cycle are emitted: up to an end of sequence or the limit."""
    stops = [place + 1 for place, token in enumerate(following) if token in eos]
    return min([room, len(following), *stops])
