"""Token bookkeeping between draft and verify; also the name under which SGLang looks for the NGRAM tree op.

Call sites: kernels/ops/speculative/{eagle,multi_layer_eagle,reconstruct_tree}.py.
"""

from torch import Tensor

from .tree import reconstruct_indices_from_tree_mask_cpu as reconstruct_indices_from_tree_mask

__all__ = ["fill_bonus_tokens_cpu", "reconstruct_indices_from_tree_mask", "rotate_input_ids_cpu"]


def fill_bonus_tokens_cpu(accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int) -> None:
    """bonus_tokens[b] = the last accepted token of request b; accept_tokens is [B, accept_stride], flat or not."""
    last = accept_lens.long().unsqueeze(1) - 1
    bonus_tokens.copy_(accept_tokens.view(-1, accept_stride).gather(1, last).squeeze(1))


def rotate_input_ids_cpu(
    input_ids: Tensor,
    extend_start_loc: Tensor,
    extend_seq_lens: Tensor,
    topk_index: Tensor,
    select_index: Tensor | None = None,
) -> None:
    """In place: shift each request's tokens left by one; its new token goes last, or to flat index select_index[b]."""
    places = None if select_index is None else select_index.tolist()
    new_tokens = topk_index.flatten()
    for b, (start, length) in enumerate(zip(extend_start_loc.tolist(), extend_seq_lens.tolist(), strict=True)):
        if length > 0:
            tokens = input_ids[start : start + length]
            tokens[:-1] = tokens[1:].clone()
            input_ids[places[b] if places is not None else start + length - 1] = new_tokens[b]
