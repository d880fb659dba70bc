# ruff: noqa: E501, FBT001, N803, N806, PLR0913, PLR0917  SGLang's signatures, laid out in rows; shape suffixes
"""Attention over the paged KV cache, in PyTorch (SGLang: layers/attention/intel_amx_backend.py).

Shapes: T query tokens, B requests, H query heads, K KV heads, D head size, S cache slots, L longest sequence. A request's
keys are the cache slots req_to_token[req_pool_indices[b], :seq_lens[b]]. k_scale and v_scale belong to quantised caches,
which are refused, and are 1 otherwise.
"""

import torch
from torch import Tensor

from .unsupported import refusal

_SCHEMA_TAIL = "int sliding_window_size, Tensor? encoder_lens, Tensor? sinks"

DECODE_SCHEMA = (
    "decode_attention_cpu(Tensor query, Tensor(a!) k_cache, Tensor(b!) v_cache, float k_scale, float v_scale, "
    "Tensor(c!) output, Tensor? key, Tensor? value, Tensor loc, Tensor attn_logits, Tensor req_to_token, "
    "Tensor req_pool_indices, Tensor seq_lens, float sm_scale, float logit_cap, bool is_cross_attn, "
    f"{_SCHEMA_TAIL}) -> ()"
)

EXTEND_SCHEMA = (
    "extend_attention_cpu(Tensor q_extend, Tensor? k_extend, Tensor? v_extend, Tensor(a!) o_extend, Tensor k_buffer, "
    "Tensor v_buffer, float k_scale, float v_scale, Tensor req_to_token, Tensor req_pool_indices, Tensor seq_lens, "
    "Tensor extend_seq_lens, Tensor extend_start_loc, int max_len_extend, float sm_scale, float logit_cap, "
    f"bool is_cross_attn, {_SCHEMA_TAIL}, Tensor? tree_mask, bool is_causal) -> ()"
)


def _check_supported(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    is_cross_attn: bool,
    encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:
    if is_cross_attn or encoder_lens is not None or sinks is not None:
        raise refusal("cross attention, encoder lengths and attention sinks", "attention")
    if k_cache.shape != v_cache.shape or query.shape[-1] != k_cache.shape[-1]:
        raise refusal("multi-head latent attention", "attention")
    if not query.dtype == k_cache.dtype == v_cache.dtype:
        raise refusal("quantised KV caches (start SGLang without --kv-cache-dtype)", "attention")


def _attend(
    query_THD: Tensor, keys_NKD: Tensor, values_NKD: Tensor, visible_TN: Tensor, scale: float, cap: float
) -> Tensor:
    """[T, H, D] queries over N keys, of which visible_TN says which each may see; float32 inside."""
    group = query_THD.shape[1] // keys_NKD.shape[1]
    keys = keys_NKD.float().repeat_interleave(group, dim=1)
    values = values_NKD.float().repeat_interleave(group, dim=1)
    scores_HTN = torch.einsum("thd,nhd->htn", query_THD.float(), keys) * scale
    if cap > 0:
        scores_HTN = cap * torch.tanh(scores_HTN / cap)
    weights_HTN = scores_HTN.masked_fill(~visible_TN, -torch.inf).softmax(dim=-1)
    return torch.einsum("htn,nhd->thd", weights_HTN, values).to(query_THD.dtype)


def _window(positions_T: Tensor, length: int, size: int) -> Tensor:
    """[T, length]: the `size` keys up to and including each position; all keys when size is 0."""
    keys = torch.arange(length)
    behind = positions_T.unsqueeze(1) - keys.unsqueeze(0)
    return behind < size if size > 0 else torch.ones_like(behind, dtype=torch.bool)


def decode_attention_cpu(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float, output: Tensor, key: Tensor | None,
    value: Tensor | None, loc: Tensor, attn_logits: Tensor, req_to_token: Tensor, req_pool_indices: Tensor, seq_lens: Tensor,
    sm_scale: float, logit_cap: float, is_cross_attn: bool, sliding_window_size: int, encoder_lens: Tensor | None,
    sinks: Tensor | None,
) -> None:  # fmt: skip
    """One token per request: query and output [B, H, D], key and value [B, K, D] (or None: already in the cache).

    key and value go to cache slots `loc` first, so seq_lens counts the new token. attn_logits is scratch of the
    official kernel.
    """
    del k_scale, v_scale, attn_logits
    _check_supported(query, k_cache, v_cache, is_cross_attn, encoder_lens, sinks)
    if key is not None and value is not None:
        k_cache[loc] = key.reshape(-1, *k_cache.shape[1:])
        v_cache[loc] = value.reshape(-1, *v_cache.shape[1:])
    for i, (request, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        slots = req_to_token[request, :length]
        visible = _window(torch.tensor([length - 1]), length, sliding_window_size)
        output[i] = _attend(query[i : i + 1], k_cache[slots], v_cache[slots], visible, sm_scale, logit_cap)[0]


def extend_attention_cpu(
    q_extend: Tensor, k_extend: Tensor | None, v_extend: Tensor | None, o_extend: Tensor, k_buffer: Tensor, v_buffer: Tensor,
    k_scale: float, v_scale: float, req_to_token: Tensor, req_pool_indices: Tensor, seq_lens: Tensor, extend_seq_lens: Tensor,
    extend_start_loc: Tensor, max_len_extend: int, sm_scale: float, logit_cap: float, is_cross_attn: bool,
    sliding_window_size: int, encoder_lens: Tensor | None, sinks: Tensor | None, tree_mask: Tensor | None, is_causal: bool,
) -> None:  # fmt: skip
    """Several new tokens per request: q_extend and o_extend [T, H, D], request b's at extend_start_loc[b].

    seq_lens counts prefix and new tokens; the new tokens' K and V are in the cache already (set_kv_buffer ran before).
    tree_mask, if given, is a flat bool [sum of extend_seq_lens ** 2] (TreeMaskMode.QLEN_ONLY): row i of a request's block
    says which of its new tokens token i sees; the prefix is always visible.
    """
    del k_extend, v_extend, k_scale, v_scale, max_len_extend
    _check_supported(q_extend, k_buffer, v_buffer, is_cross_attn, encoder_lens, sinks)
    if tree_mask is not None and sliding_window_size > 0:
        raise refusal("token trees on sliding-window layers (or use --speculative-eagle-topk 1)", "attention")
    mask_at = 0
    batch = (req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), extend_start_loc.tolist())
    for request, length, new, start in zip(*batch, strict=True):
        positions = torch.arange(length - new, length)
        visible = _window(positions, length, sliding_window_size)
        if tree_mask is not None:
            visible[:, length - new :] = tree_mask[mask_at : mask_at + new * new].view(new, new)
            mask_at += new * new
        elif is_causal:
            visible &= torch.arange(length).unsqueeze(0) <= positions.unsqueeze(1)
        slots = req_to_token[request, :length]
        query = q_extend[start : start + new]
        o_extend[start : start + new] = _attend(query, k_buffer[slots], v_buffer[slots], visible, sm_scale, logit_cap)
