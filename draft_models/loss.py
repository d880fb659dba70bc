# ruff: noqa: ANN401, N803, N806, N815  autograd's context is untyped; shape suffixes
"""Soft cross-entropy of all simulated steps against the target's distribution, fused with both heads.

EAGLE-3 has no feature loss: every step is judged by its tokens alone (section 3.1). The reference is the target's
distribution over the draft vocabulary, renormalised: mass on tokens the draft does not know is dropped, because the
draft cannot put any there. Where the target's *likeliest* token is one of those, no proposal can be accepted greedily
and the position does not count (weight 0), as in EAGLE's own training code.

A token is predicted by up to S steps, and its reference is computed once for all of them. References are taken in
chunks with the predictions they judge: logits, probabilities and their gradient exist for one chunk at a time, and
never for the target's whole vocabulary.

Shapes: R references, C of them in a chunk, X predictions (P of them in a chunk), D hidden size, W draft vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

CHUNK = {"cpu": 256, "cuda": 4096}
"""References at a time: a CPU's chunk stays in its cache, a GPU wants few and large kernels."""


@dataclass(frozen=True)
class Judged:
    """The loss, and what each prediction was (no gradient)."""

    loss: Tensor
    entropy_X: Tensor
    """Cross-entropy, unweighted."""
    proposal_X: Tensor
    """The draft's likeliest token, a draft id."""


def soft_cross_entropy(
    hidden_XD: Tensor,
    head_WD: Tensor,
    reference_RD: Tensor,
    reference_head_WD: Tensor,
    reference_X: Tensor,
    weight_X: Tensor,
) -> Judged:
    """Sum over predictions of weight * cross-entropy(target restricted to W, draft).

    Args:
        hidden_XD: the draft's normed outputs.
        head_WD: the draft's head; hidden_XD and it get gradients.
        reference_RD: the target's final (normed) hidden states.
        reference_head_WD: the rows of the target's head that the draft knows.
        reference_X: the reference each prediction is judged by; rising.
        weight_X: what each term counts; 0 leaves it out.
    """
    with torch.autocast(hidden_XD.device.type, enabled=False):  # CUDA's would take every softmax back to fp32
        loss, entropy_X, proposal_X = _Fused.apply(  # type: ignore[no-untyped-call]
            hidden_XD, head_WD, reference_RD, reference_head_WD, reference_X, weight_X
        )
    return Judged(loss, entropy_X, proposal_X)


class _Fused(Function):
    """Forward computes the gradients too, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_XD: Tensor,
        head_WD: Tensor,
        reference_RD: Tensor,
        reference_head_WD: Tensor,
        reference_X: Tensor,
        weight_X: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = hidden_XD.dtype
        cast_WD, reference_WD = head_WD.to(dtype), reference_head_WD.to(dtype)
        grad_hidden_XD, grad_head_WD = torch.empty_like(hidden_XD), torch.zeros_like(head_WD)
        entropy_X = torch.empty_like(weight_X)
        proposal_X = torch.empty_like(reference_X)
        size = CHUNK[hidden_XD.device.type]
        starts = range(0, len(reference_RD), size)
        edges = torch.searchsorted(reference_X, torch.tensor([*starts, len(reference_RD)], device=reference_X.device))
        for start, first, end in zip(starts, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            chunk = slice(first, end)
            hidden_PD = hidden_XD[chunk]
            prob_CW = (reference_RD[start : start + size].to(dtype) @ reference_WD.T).softmax(-1)
            reference_PW = prob_CW[reference_X[chunk] - start]
            entropy_X[chunk], proposal_X[chunk], prob_PW = _entropy(hidden_PD @ cast_WD.T, reference_PW)
            grad_PW = prob_PW.sub_(reference_PW).mul_(weight_X[chunk, None].to(dtype))
            grad_hidden_XD[chunk] = grad_PW @ cast_WD
            grad_head_WD += grad_PW.T @ hidden_PD
        ctx.save_for_backward(grad_hidden_XD, grad_head_WD)
        ctx.mark_non_differentiable(entropy_X, proposal_X)
        return (entropy_X * weight_X).sum(), entropy_X, proposal_X

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_XD, grad_head_WD = ctx.saved_tensors
        grad_hidden_XD = grad_hidden_XD * grads[0].to(grad_hidden_XD.dtype)
        return grad_hidden_XD, grad_head_WD * grads[0], None, None, None, None


def _entropy(logits_PW: Tensor, reference_PW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy in fp32 [P], the likeliest token [P], the draft's probabilities [P, W].

    log-sum-exp = largest logit - log(largest probability): the softmax is already there.
    """
    prob_PW = logits_PW.softmax(-1)
    largest_P, proposal_P = logits_PW.max(-1)
    largest_prob_P = prob_PW.gather(-1, proposal_P[:, None])[:, 0].float()
    agreement_P = torch.linalg.vecdot(logits_PW, reference_PW).float()
    return largest_P.float() - largest_prob_P.log() - agreement_P, proposal_P, prob_PW
