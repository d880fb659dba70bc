# ruff: noqa: ANN401, N803, N806, N815  autograd's context is untyped; shape suffixes
"""Soft cross-entropy of all simulated steps against the target's distribution, fused with both heads.

EAGLE-3 has no feature loss: every step is judged by its tokens alone (section 3.1). The reference is the target's
distribution over the draft vocabulary, renormalised: mass on tokens the draft does not know is dropped, because the
draft cannot put any there. Where the target's *likeliest* token is one of those, no proposal can be accepted greedily
and the position does not count (weight 0), as in EAGLE's own training code.

A position is predicted once per step, so its reference is computed once for all S steps. Positions are taken in chunks:
logits, probabilities and their gradient exist for one chunk at a time, and never for the target's whole vocabulary.

Shapes: S steps, R predicted positions, C of them in a chunk, X = S * C, D hidden size, W draft vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

CHUNK = 256


@dataclass(frozen=True)
class Judged:
    """The loss, and for each step and position what came of it (no gradient)."""

    loss: Tensor
    entropy_SR: Tensor
    """Cross-entropy, unweighted."""
    proposal_SR: Tensor
    """The draft's likeliest token, a draft id."""


def soft_cross_entropy(
    hidden_SRD: Tensor, head_WD: Tensor, reference_RD: Tensor, reference_head_WD: Tensor, weight_SR: Tensor
) -> Judged:
    """Sum over steps and positions of weight * cross-entropy(target restricted to W, draft).

    Args:
        hidden_SRD: the draft's normed outputs, step s of the position that predicts r.
        head_WD: the draft's head; hidden_SRD and it get gradients.
        reference_RD: the target's final (normed) hidden states.
        reference_head_WD: the rows of the target's head that the draft knows.
        weight_SR: what each term counts; 0 leaves it out.
    """
    loss, entropy_SR, proposal_SR = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden_SRD, head_WD, reference_RD, reference_head_WD, weight_SR
    )
    return Judged(loss, entropy_SR, proposal_SR)


class _Fused(Function):
    """Forward computes the gradients too, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SRD: Tensor,
        head_WD: Tensor,
        reference_RD: Tensor,
        reference_head_WD: Tensor,
        weight_SR: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = hidden_SRD.dtype
        cast_WD, reference_WD = head_WD.to(dtype), reference_head_WD.to(dtype)
        grad_hidden_SRD, grad_head_WD = torch.empty_like(hidden_SRD), torch.zeros_like(head_WD)
        entropy_SR = torch.empty(hidden_SRD.shape[:2])
        proposal_SR = torch.empty(hidden_SRD.shape[:2], dtype=torch.long)
        for start in range(0, hidden_SRD.shape[1], CHUNK):
            chunk = slice(start, start + CHUNK)
            hidden_SCD = hidden_SRD[:, chunk]
            hidden_XD = hidden_SCD.flatten(0, 1)
            reference_CW = (reference_RD[chunk].to(dtype) @ reference_WD.T).softmax(-1)
            logits_SCW = (hidden_XD @ cast_WD.T).view(*hidden_SCD.shape[:2], -1)
            entropy_SR[:, chunk], proposal_SR[:, chunk], prob_SCW = _entropy(logits_SCW, reference_CW)
            grad_SCW = prob_SCW.sub_(reference_CW).mul_(weight_SR[:, chunk, None].to(dtype))
            grad_XW = grad_SCW.flatten(0, 1)
            grad_hidden_SRD[:, chunk] = (grad_XW @ cast_WD).view_as(hidden_SCD)
            grad_head_WD += grad_XW.T @ hidden_XD
        ctx.save_for_backward(grad_hidden_SRD, grad_head_WD)
        ctx.mark_non_differentiable(entropy_SR, proposal_SR)
        return (entropy_SR * weight_SR).sum(), entropy_SR, proposal_SR

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_SRD, grad_head_WD = ctx.saved_tensors
        return grad_hidden_SRD * grads[0].to(grad_hidden_SRD.dtype), grad_head_WD * grads[0], None, None, None


def _entropy(logits_SCW: Tensor, reference_CW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy in fp32 [S, C], the likeliest token [S, C], the draft's probabilities [S, C, W].

    log-sum-exp = largest logit - log(largest probability): the softmax is already there.
    """
    prob_SCW = logits_SCW.softmax(-1)
    largest_SC, proposal_SC = logits_SCW.max(-1)
    largest_prob_SC = prob_SCW.gather(-1, proposal_SC[..., None])[..., 0].float()
    agreement_SC = torch.linalg.vecdot(logits_SCW, reference_CW).float()
    return largest_SC.float() - largest_prob_SC.log() - agreement_SC, proposal_SC, prob_SCW
