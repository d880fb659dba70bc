# ruff: noqa: FBT001, FBT003, N803, PLR0913, PLR0917  ops' schemas; shape suffixes
"""All layers of a Llama-type decoder as one op: what it stands for, written with the ops that SGLang would call.

csrc/decoder.h gives the same bits in one parallel region. Shapes: T tokens, B requests, E hidden size, L layers.
"""

import torch
from torch import Tensor

DECODER_SCHEMA = (
    "decoder_layers(Tensor hidden, Tensor? embeds, Tensor? hidden_norm, Tensor[] weights, Tensor final_norm, "
    "float eps, Tensor positions, Tensor cos_sin_cache, bool is_neox, Tensor(a!)[] kv_caches, Tensor slots, "
    "Tensor req_to_token, Tensor req_pool_indices, Tensor seq_lens, Tensor extend_seq_lens, Tensor? tree_mask, "
    "float sm_scale, int[] captured) -> (Tensor, Tensor)"
)
LAYER_WEIGHTS = 6


def decoder_layers(
    hidden_TE: Tensor,
    embeds_TE: Tensor | None,
    hidden_norm: Tensor | None,
    weights: list[Tensor],
    final_norm: Tensor,
    eps: float,
    positions: Tensor,
    cos_sin_cache: Tensor,
    is_neox: bool,
    kv_caches: list[Tensor],
    slots: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_seq_lens: Tensor,
    tree_mask: Tensor | None,
    sm_scale: float,
    captured: list[int],
) -> tuple[Tensor, Tensor]:
    """-> (normed hidden states [T, E], residual streams [T, len(captured) * E]); writes K and V to `slots` [T].

    weights has six tensors a layer: input norm, qkv, o, post-attention norm, gate_up, down, the matrices as
    convert_weight_packed returns them, without biases; kv_caches two, [slots, K, D]. The last extend_seq_lens[b] of
    request b's seq_lens[b] tokens are the T new ones, tree_mask as in extend_attention_cpu. captured names layers: the
    residual stream before them is kept, that before the final norm as layer L. With embeds, the first layer is
    EAGLE-3's (SGLang: models/llama_eagle3.py): its input is the normed embedding beside the normed hidden state.
    """
    ops = torch.ops.sgl_kernel
    k_heads, head_size = kv_caches[0].shape[1:]
    kv_size = k_heads * head_size
    starts = extend_seq_lens.cumsum(0) - extend_seq_lens
    x, residual, kept = hidden_TE, hidden_TE.clone(), {}
    for layer, (k_cache, v_cache) in enumerate(zip(kv_caches[::2], kv_caches[1::2], strict=True)):
        norm, qkv, o, post_norm, gate_up, down = weights[LAYER_WEIGHTS * layer : LAYER_WEIGHTS * (layer + 1)]
        if layer > 0:
            ops.fused_add_rmsnorm_cpu(x, residual, norm, eps)
        elif embeds_TE is not None and hidden_norm is not None:
            x = torch.cat((ops.rmsnorm_cpu(embeds_TE, norm, eps), ops.rmsnorm_cpu(residual, hidden_norm, eps)), dim=-1)
        else:
            x = ops.rmsnorm_cpu(residual, norm, eps)
        kept[layer] = residual.clone()
        q, k, v = ops.weight_packed_linear(x, qkv, None, True).tensor_split([-2 * kv_size, -kv_size], dim=-1)
        q, k = ops.rotary_embedding_cpu(positions, q, k, head_size, cos_sin_cache, is_neox)
        ops.store_cache_cpu(k, v, k_cache, v_cache, slots, kv_size)
        q = q.unflatten(1, (-1, head_size))
        out = torch.empty_like(q)
        ops.extend_attention_cpu(
            q, None, None, out, k_cache, v_cache, 1.0, 1.0, req_to_token, req_pool_indices, seq_lens, extend_seq_lens,
            starts, 0, sm_scale, 0.0, False, 0, None, None, tree_mask, True,
        )  # fmt: skip
        x = ops.weight_packed_linear(out.flatten(1), o, None, True)
        ops.fused_add_rmsnorm_cpu(x, residual, post_norm, eps)
        x = ops.silu_and_mul_cpu(ops.weight_packed_linear(x, gate_up, None, True))
        x = ops.weight_packed_linear(x, down, None, True)
    ops.fused_add_rmsnorm_cpu(x, residual, final_norm, eps)
    kept[len(kv_caches) // 2] = residual
    return x, torch.cat([kept[layer] for layer in captured], dim=-1) if captured else x[:, :0]
