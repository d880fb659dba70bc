"""Paged attention against a reference that loops over every query, head and visible key in float64."""

import math

import pytest
import torch
from sgl_kernel.tree import ancestor_mask

from .conftest import COMPILED, implementation
from .test_ops import close, dtypes

SLOTS = 160


class Case:
    """A batch over a shuffled KV cache: request r's keys are the slots in row r of req_to_token."""

    def __init__(self, dtype, head_size, heads, kv_heads, lengths, new):
        self.lengths, self.new, self.heads, self.kv_heads = lengths, new, heads, kv_heads
        self.scale = 1 / math.sqrt(head_size)
        self.k = torch.randn(SLOTS, kv_heads, head_size).to(dtype)
        self.v = torch.randn(SLOTS, kv_heads, head_size).to(dtype)
        self.table = torch.randperm(SLOTS, dtype=torch.int32)[: 4 * 40].view(4, 40).contiguous()
        self.requests = torch.tensor([2, 0, 3, 1])[: len(lengths)]
        self.q = torch.randn(sum(new), 2 * heads, head_size).to(dtype)[:, :heads]  # strided, as a view of qkv is
        self.out = torch.zeros(sum(new), heads, head_size, dtype=dtype)

    def expected(self, sees, cap=0.0):
        """sees(request, i, j): may new token i attend to key j?"""
        out, row = torch.zeros_like(self.out, dtype=torch.float64), 0
        for r, (length, new) in enumerate(zip(self.lengths, self.new, strict=True)):
            slots = self.table[self.requests[r]].tolist()
            for i in range(new):
                keys = [slots[j] for j in range(length) if sees(r, i, j)]
                for h in range(self.heads):
                    kv = h // (self.heads // self.kv_heads)
                    scores = self.k[keys, kv].double() @ self.q[row, h].double() * self.scale
                    if cap:
                        scores = cap * (scores / cap).tanh()
                    weights = (scores - scores.max()).exp()
                    out[row, h] = weights / weights.sum() @ self.v[keys, kv].double()
                row += 1
        return out

    def extend(self, ops, tree_mask=None, window=0, cap=0.0, causal=True, **unsupported):
        new = torch.tensor(self.new, dtype=torch.int32)
        start = (new.cumsum(0) - new).to(torch.int32)
        flags = {"cross": False, "encoder_lens": None, "sinks": None} | unsupported
        ops.extend_attention_cpu(
            self.q, None, None, self.out, self.k, self.v, 1.0, 1.0, self.table, self.requests,
            torch.tensor(self.lengths, dtype=torch.int64), new, start, max(self.new, default=0), self.scale, cap,
            flags["cross"], window, flags["encoder_lens"], flags["sinks"], tree_mask, causal,
        )  # fmt: skip
        return self.out

    def decode(self, ops, key=None, value=None, loc=None, window=0, cap=0.0):
        loc = torch.zeros(len(self.lengths), dtype=torch.int64) if loc is None else loc
        ops.decode_attention_cpu(
            self.q, self.k, self.v, 1.0, 1.0, self.out, key, value, loc, torch.empty(0), self.table, self.requests,
            torch.tensor(self.lengths, dtype=torch.int64), self.scale, cap, False, window, None, None,
        )  # fmt: skip
        return self.out


shapes = pytest.mark.parametrize(
    ("head_size", "heads", "kv_heads"),
    [(64, 9, 3), (80, 4, 4), (128, 8, 1), (6, 2, 2)],
    ids=["gqa64", "mha80", "mqa128", "mha6"],
)


@dtypes
@shapes
def test_decode_attends_to_the_whole_sequence_including_the_new_token(ops, dtype, head_size, heads, kv_heads):
    case = Case(dtype, head_size, heads, kv_heads, [1, 17, 40], [1, 1, 1])
    loc = torch.stack([case.table[r, n - 1] for r, n in zip(case.requests, case.lengths, strict=True)]).long()
    key, value = torch.randn(2, 3, kv_heads, head_size).to(dtype)
    case.decode(ops, key, value, loc)
    assert torch.equal(case.k[loc], key)
    assert torch.equal(case.v[loc], value)
    close(case.out, case.expected(lambda *_: True))


@dtypes
@shapes
def test_extend_is_causal_after_the_prefix(ops, dtype, head_size, heads, kv_heads):
    case = Case(dtype, head_size, heads, kv_heads, [3, 21, 40], [3, 1, 13])
    close(case.extend(ops), case.expected(lambda r, i, j: j <= case.lengths[r] - case.new[r] + i))


@dtypes
def test_extend_without_causality_sees_everything(ops, dtype):
    case = Case(dtype, 64, 4, 2, [5, 9], [5, 2])
    close(case.extend(ops, causal=False), case.expected(lambda *_: True))


@dtypes
def test_a_tree_mask_hides_draft_tokens_but_never_the_prefix(ops, dtype):
    case = Case(dtype, 64, 9, 3, [8, 30, 11], [8, 8, 8])
    masks = (torch.rand(3, 8, 8) < 0.4) | torch.eye(8, dtype=torch.bool)
    # What is hidden must not matter even where the cache holds garbage.
    hidden = ~masks[0].any(dim=0)
    case.v[case.table[case.requests[0], :8][hidden]] = float("nan") if hidden.any() else 0.0

    def sees(r, i, j):
        prefix = case.lengths[r] - case.new[r]
        return j < prefix or bool(masks[r, i, j - prefix])

    close(case.extend(ops, tree_mask=masks.flatten()), case.expected(sees))


@dtypes
@pytest.mark.parametrize("window", [1, 6, 100])
def test_a_sliding_window_keeps_the_last_keys(ops, dtype, window):
    case = Case(dtype, 64, 4, 2, [25, 40], [1, 1])
    close(case.decode(ops, window=window), case.expected(lambda r, _, j: j > case.lengths[r] - 1 - window))
    case = Case(dtype, 64, 4, 2, [25, 12], [9, 12])

    def sees(r, i, j):
        position = case.lengths[r] - case.new[r] + i
        return position - window < j <= position

    close(case.extend(ops, window=window), case.expected(sees))


@dtypes
def test_soft_capping_bounds_the_scores(ops, dtype):
    case = Case(dtype, 64, 4, 2, [25, 40], [1, 1])
    close(case.decode(ops, cap=0.7), case.expected(lambda *_: True, cap=0.7))


def test_an_empty_batch_is_fine(ops):
    case = Case(torch.float32, 64, 4, 2, [], [])
    assert case.decode(ops).shape == case.extend(ops).shape == (0, 4, 64)


def test_large_scores_do_not_overflow(ops):
    case = Case(torch.float32, 64, 4, 2, [30], [1])
    case.q *= 1000
    torch.testing.assert_close(case.decode(ops).double(), case.expected(lambda *_: True), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("unsupported", [{"cross": True}, {"encoder_lens": torch.ones(1)}, {"sinks": torch.ones(4)}])
def test_what_is_unsupported_is_refused_by_name(ops, unsupported):
    with pytest.raises(NotImplementedError, match="Aerie's CPU runtime"):
        Case(torch.float32, 64, 4, 2, [4], [2]).extend(ops, **unsupported)


def test_a_quantised_cache_and_differing_head_sizes_are_refused(ops):
    case = Case(torch.float32, 64, 4, 2, [4], [1])
    case.k = case.k.bfloat16()
    with pytest.raises(NotImplementedError, match="kv-cache-dtype"):
        case.decode(ops)
    case = Case(torch.float32, 64, 4, 2, [4], [1])
    case.v = case.v[..., :32].contiguous()
    with pytest.raises(NotImplementedError, match="GPU profile"):
        case.decode(ops)


def test_a_tree_on_a_sliding_window_layer_is_refused(ops):
    with pytest.raises(NotImplementedError, match="eagle-topk 1"):
        Case(torch.float32, 64, 4, 2, [4], [2]).extend(ops, tree_mask=torch.ones(4, dtype=torch.bool), window=3)


TREES = {"chain": list(range(-1, 15)), "tree": [-1, 0, 0, 0, 1, 1, 2, 4, 4, 6, 7, 9, 9, 10, 3, 13]}


@dtypes
@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
@pytest.mark.parametrize("parents", list(TREES.values()), ids=list(TREES))
@pytest.mark.parametrize("length", [9, 15, 16, 23])
def test_verifying_a_tree_has_the_bits_of_decoding_its_paths(length, parents, dtype):
    """Whatever lies in the cache between a path's nodes and behind them. The compiled kernel's law, not PyTorch's."""
    ops = implementation("compiled")
    tree = Case(dtype, 64, 9, 3, [length + 16], [16])
    mask = ancestor_mask(parents)
    verified = tree.extend(ops, tree_mask=torch.tensor(mask).flatten()).clone()
    for node, row in enumerate(mask):
        path = [length + i for i, seen in enumerate(row) if seen]
        one = Case(dtype, 64, 9, 3, [length + len(path)], [1])
        one.k, one.v, one.q = tree.k, tree.v, tree.q[node : node + 1]
        one.table[:, : length + len(path)] = tree.table[:, [*range(length), *path]]
        assert torch.equal(one.decode(ops)[0], verified[node])
