"""Cache-slot bookkeeping: which KV slots a request owns, and moving them.

Plain Python over .tolist(): the tensors are small (B requests, a few tokens each). req_to_token is int32 [requests, L]:
row r lists request r's slots. Call sites in SGLang: kernels/ops/speculative/{cache_locs,eagle}.py,
kernels/ops/kvcache/cache_move.py, mem_cache/allocation.py, layers/attention/intel_amx_backend.py.
"""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor


def _spans(rows: Tensor, starts: Tensor, ends: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """(row, its span, the same span's place in a concatenation of all spans)."""
    at = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        yield row, slice(start, end), slice(at, at + end - start)
        at += end - start


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """req_to_token[request, start:end] = the next end - start entries of out_cache_loc, request by request."""
    del pool_len
    for row, span, place in _spans(req_pool_indices, start_offset, end_offset):
        req_to_token[row, span] = out_cache_loc[place].to(req_to_token.dtype)


def assign_extend_cache_locs_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """The other way: out_cache_loc = the requests' req_to_token[start:end], one after another."""
    del pool_len
    for row, span, place in _spans(req_pool_indices, start_offset, end_offset):
        out_cache_loc[place] = req_to_token[row, span].to(out_cache_loc.dtype)


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """out_cache_loc = each request's topk * num_steps slots that follow its seq_lens committed ones."""
    ends = seq_lens + topk * num_steps
    assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, seq_lens, ends, out_cache_loc, pool_len)


def build_draft_decode_metadata_cpu(
    req_to_token: Tensor, req_pool_indices: Tensor, seq_lens: Tensor, topk: int, num_steps: int, pool_len: int
) -> Tensor:
    """Slot tables [B * topk, pool_len]: the committed prefix, then branch t's own num_steps draft slots."""
    tables = torch.zeros(len(seq_lens) * topk, pool_len, dtype=req_to_token.dtype)
    for b, (row, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        branches = tables[b * topk : (b + 1) * topk]
        branches[:, :length] = req_to_token[row, :length]
        drafted = req_to_token[row, length : length + topk * num_steps]
        branches[:, length : length + num_steps] = drafted.view(topk, num_steps)
    return tables


def fill_accept_out_cache_loc_cpu(accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor) -> None:
    """Compact out_cache_loc at the entries of accept_index that are not -1 (flat indices of accepted draft tokens)."""
    accepted = accept_index[accept_index >= 0].long()
    accept_out_cache_loc[: accepted.numel()] = out_cache_loc[accepted]


def copy_all_layer_kv_cache_cpu(data_ptrs: Tensor, strides: Tensor, tgt_loc: Tensor, src_loc: Tensor) -> None:
    """In every K and V buffer (base address, bytes per slot): buffer[tgt_loc] = buffer[src_loc]."""
    if not torch.equal(tgt_loc, src_loc):  # a chain is accepted in place
        torch.ops.aerie_cpu.copy_slots(data_ptrs, strides, tgt_loc, src_loc)


def copy_slots(buffers: Tensor, bytes_per_slot: Tensor, targets: Tensor, sources: Tensor) -> None:
    """The PyTorch-free body of aerie_cpu::copy_slots; targets may overlap sources."""
    for base, size in zip(buffers.tolist(), bytes_per_slot.tolist(), strict=True):
        rows = [ctypes.string_at(base + source * size, size) for source in sources.tolist()]
        for target, row in zip(targets.tolist(), rows, strict=True):
            ctypes.memmove(base + target * size, row, size)
