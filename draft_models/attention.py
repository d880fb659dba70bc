# ruff: noqa: ANN401, N803, N806, N812  autograd's context is untyped; shape suffixes
"""Attention of the training-time test (section 3.2, Figure 6): causal over the data, diagonal over simulated steps.

At step s the query of position t stands for token t + s. It may see the data up to its own position t, that is the
step-0 keys 0..t, and what it would have drafted on the way, that is the keys of steps 1..s at the same position t:

      step-0 keys    step-1 keys
      0 1 2 3        0 1 2 3
    0 x              x                 queries of step 1
    1 x x              x
    2 x x x              x
    3 x x x x              x

The right block is diagonal, so section 3.2 computes it with dot products. Here the left block, too, never becomes a
T x T matrix: a fused kernel returns its output and its log-sum-exp, and the few diagonal terms are merged into both.

Owns rope and attention; refuses to own projections and norms (model.py) and which positions are simulated (unroll.py).

Shapes: B rows of T tokens, N simulated positions among the B * T, M any number of tokens, S simulated steps so far,
H attention heads, G key-value heads, E heads per key-value head (H = G * E), d head dimension, C cached tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def rotate(x_MHd: Tensor, cos_Md: Tensor, sin_Md: Tensor) -> Tensor:
    """Rotary position embedding, in the half-split layout of Llama and Qwen."""
    first, second = x_MHd.chunk(2, dim=-1)
    turned_MHd = torch.cat([-second, first], dim=-1)
    return x_MHd * cos_Md[:, None] + turned_MHd * sin_Md[:, None]


def cached_attention(query_MHd: Tensor, key_CGd: Tensor, value_CGd: Tensor, mask_MC: Tensor) -> Tensor:
    """Attention over a key-value cache, as decoding does it: `mask_MC` says which entries a query may see."""
    out_HMd = F.scaled_dot_product_attention(
        query_MHd.transpose(0, 1)[None],
        key_CGd.transpose(0, 1)[None],
        value_CGd.transpose(0, 1)[None],
        attn_mask=mask_MC[None, None],
        enable_gqa=True,
    )[0]
    return out_HMd.transpose(0, 1)


class CausalThenDiagonal:
    """The attention memory of one unrolled batch: first call is step 0, every further call one simulated step.

    Step 0 brings queries, keys and values of all B * T positions and returns outputs of the N simulated ones. Later
    steps bring those that are simulated on: the first of the N, as many as the step before or fewer.
    """

    def __init__(self, rows: int, row_N: Tensor, column_N: Tensor) -> None:
        self.rows, self.row_N, self.column_N = rows, row_N, column_N
        self.data: tuple[Tensor, Tensor] | None = None  # keys and values of step 0, [B, G, T, d]
        self.simulated: list[tuple[Tensor, Tensor]] = []  # of steps 1.., [N, G, d]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Outputs [N, H, d]."""
        if self.data is None:
            key_BGTd, value_BGTd = (_rows(x, self.rows).transpose(1, 2) for x in (key, value))
            self.data = key_BGTd, value_BGTd
            query = _rows(query, self.rows)[self.row_N, self.column_N]
        else:
            self.simulated.append((key, value))
        alive = len(query)
        memory = [(key_NGd[:alive], value_NGd[:alive]) for key_NGd, value_NGd in self.simulated]
        return merged_attention(query, *self.data, memory, self.row_N[:alive], self.column_N[:alive])


def merged_attention(
    query_NHd: Tensor,
    key_BGTd: Tensor,
    value_BGTd: Tensor,
    simulated: list[tuple[Tensor, Tensor]],
    row_N: Tensor,
    column_N: Tensor,
) -> Tensor:
    """Each query over the data up to its own column and over every simulated step of its own: [N, H, d]."""
    if simulated:
        key_SNGd, value_SNGd = (torch.stack(parts) for parts in zip(*simulated, strict=True))
    else:
        key_SNGd = value_SNGd = query_NHd.new_empty(0, query_NHd.shape[0], key_BGTd.shape[1], key_BGTd.shape[3])
    out_NHd: Tensor = _Merged.apply(  # type: ignore[no-untyped-call]
        query_NHd, key_BGTd, value_BGTd, key_SNGd, value_SNGd, row_N, column_N
    )
    return out_NHd


class _Merged(Function):
    """softmax over [causal block | diagonal terms], from the block's output and log-sum-exp.

    The block's backward kernel recomputes its probabilities as exp(score - log_sum_exp) and needs the final output only
    for its inner product with the gradient: given the merged output and the merged log-sum-exp, it returns exactly the
    block's share of the merged softmax's gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_NHd: Tensor,
        key_BGTd: Tensor,
        value_BGTd: Tensor,
        key_SNGd: Tensor,
        value_SNGd: Tensor,
        row_N: Tensor,
        column_N: Tensor,
    ) -> Tensor:
        # fp32 whatever the inputs are: the CPU kernel is as fast, and the diagonal terms are few
        query_NHd, key_BGTd, value_BGTd, key_SNGd, value_SNGd = (
            x.float() for x in (query_NHd, key_BGTd, value_BGTd, key_SNGd, value_SNGd)
        )
        heads, scale = query_NHd.shape[1], query_NHd.shape[2] ** -0.5
        query_BHTd = _spread(query_NHd, key_BGTd, row_N, column_N)
        block_out_BHTd, block_lse_BHT = causal_block(
            query_BHTd, _per_head(key_BGTd, heads), _per_head(value_BGTd, heads)
        )
        block_lse_NH = block_lse_BHT[row_N, :, column_N]
        query_NGEd = _grouped(query_NHd, key_BGTd.shape[1])
        score_SNGE = (query_NGEd * key_SNGd[:, :, :, None]).sum(-1) * scale
        score_SNH = score_SNGE.flatten(2)
        lse_NH = torch.cat([block_lse_NH[None], score_SNH]).logsumexp(0)
        prob_SNGE = (score_SNH - lse_NH).exp().view_as(score_SNGE)
        diagonal_NHd = (prob_SNGE[..., None] * value_SNGd[:, :, :, None]).sum(0).flatten(1, 2)
        out_NHd: Tensor = block_out_BHTd[row_N, :, column_N] * (block_lse_NH - lse_NH).exp()[..., None] + diagonal_NHd
        ctx.save_for_backward(
            query_NHd, key_BGTd, value_BGTd, key_SNGd, value_SNGd, row_N, column_N, out_NHd, lse_NH, prob_SNGE
        )
        return out_NHd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_NHd, key_BGTd, value_BGTd, key_SNGd, value_SNGd, row_N, column_N, out_NHd, lse_NH, prob_SNGE = (
            ctx.saved_tensors
        )
        grad_NHd = grads[0].float()
        heads, groups, scale = query_NHd.shape[1], key_BGTd.shape[1], query_NHd.shape[2] ** -0.5
        # the diagonal terms, written out
        grad_NGEd, out_NGEd, query_NGEd = (_grouped(x, groups) for x in (grad_NHd, out_NHd, query_NHd))
        grad_prob_SNGE = (grad_NGEd * value_SNGd[:, :, :, None]).sum(-1)
        grad_score_SNGE = prob_SNGE * (grad_prob_SNGE - (grad_NGEd * out_NGEd).sum(-1)) * scale
        grad_value_SNGd = (prob_SNGE[..., None] * grad_NGEd).sum(3)
        grad_key_SNGd = (grad_score_SNGE[..., None] * query_NGEd).sum(3)
        diagonal_NHd = (grad_score_SNGE[..., None] * key_SNGd[:, :, :, None]).sum(0).flatten(1, 2)
        # the causal block, by its kernel
        spread_BHTd = [_spread(x, key_BGTd, row_N, column_N) for x in (grad_NHd, query_NHd, out_NHd, lse_NH[..., None])]
        grad_query_BHTd, grad_key_BHTd, grad_value_BHTd = causal_block_backward(
            spread_BHTd[0],
            spread_BHTd[1],
            _per_head(key_BGTd, heads),
            _per_head(value_BGTd, heads),
            spread_BHTd[2],
            spread_BHTd[3][..., 0],
        )
        grad_query_NHd = grad_query_BHTd[row_N, :, column_N] + diagonal_NHd
        grad_key_BGTd, grad_value_BGTd = (_grouped(x, groups).sum(2) for x in (grad_key_BHTd, grad_value_BHTd))
        return grad_query_NHd, grad_key_BGTd, grad_value_BGTd, grad_key_SNGd, grad_value_SNGd, None, None


def causal_block(query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention and its log-sum-exp [B, H, T], both fp32, by the device's fused kernel.

    The CUDA kernel takes 16-bit inputs only, on compute capability 8.0 and later.
    """
    if query_BHTd.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_BHTd, lse_BHT = kernel(query_BHTd, key_BHTd, value_BHTd, is_causal=True)
        return out_BHTd, lse_BHT
    half = (x.bfloat16() for x in (query_BHTd, key_BHTd, value_BHTd))
    out_BHTd, lse_BHT, *_ = torch.ops.aten._scaled_dot_product_flash_attention(*half, is_causal=True)
    return out_BHTd.float(), lse_BHT


def causal_block_backward(
    grad_BHTd: Tensor, query_BHTd: Tensor, key_BHTd: Tensor, value_BHTd: Tensor, out_BHTd: Tensor, lse_BHT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, fp32, given what the softmax came to: `out_BHTd` and `lse_BHT`."""
    if query_BHTd.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads: tuple[Tensor, Tensor, Tensor] = kernel(
            grad_BHTd, query_BHTd, key_BHTd, value_BHTd, out_BHTd, lse_BHT, 0.0, is_causal=True
        )
        return grads
    half = [x.bfloat16() for x in (grad_BHTd, query_BHTd, key_BHTd, value_BHTd, out_BHTd)]
    length = query_BHTd.shape[2]
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_backward
    # no cumulative lengths: rows of one length; no dropout: no seed
    grad_query, grad_key, grad_value = kernel(
        *half,
        lse_BHT.contiguous(),
        None,
        None,
        length,
        length,
        0.0,
        is_causal=True,
        philox_seed=None,
        philox_offset=None,
    )
    return grad_query.float(), grad_key.float(), grad_value.float()


def _rows(x_MHd: Tensor, rows: int) -> Tensor:
    """[B, T, H, d]."""
    return x_MHd.reshape(rows, -1, *x_MHd.shape[1:])


def _grouped(x_NHd: Tensor, groups: int) -> Tensor:
    """Attention heads beside those they share a key-value head with: dimension 1 becomes G, E."""
    return x_NHd.reshape(x_NHd.shape[0], groups, -1, *x_NHd.shape[2:])


def _spread(x_NHd: Tensor, like_BGTd: Tensor, row_N: Tensor, column_N: Tensor) -> Tensor:
    """[B, H, T, d] with zeros where nothing is simulated."""
    rows, _, columns, _ = like_BGTd.shape
    spread_BTHd = x_NHd.new_zeros(rows, columns, *x_NHd.shape[1:])
    spread_BTHd[row_N, column_N] = x_NHd
    return spread_BTHd.transpose(1, 2)


def _per_head(x_BGTd: Tensor, heads: int) -> Tensor:
    """Each key-value head repeated for the attention heads that share it: [B, H, T, d]."""
    return x_BGTd.repeat_interleave(heads // x_BGTd.shape[1], dim=1)
