"""Seeded draws: an independent implementation, the hash from its definition, and the distribution itself."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest

from .conftest import COMPILED, implementation

ALL = 1 << 30  # SGLang's TOP_K_ALL


def murmur(seed, position, column):
    """MurmurHash3 (x86, 32 bit, seed 0) of four little-endian words, from its published definition."""
    words, h = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, position & 0xFFFFFFFF, column & 0xFFFFFFFF], 0
    for word in words:
        k = word * 0xCC9E2D51 % 2**32
        h ^= ((k << 15 | k >> 17) % 2**32) * 0x1B873593 % 2**32
        h = ((h << 13 | h >> 19) % 2**32 * 5 + 0xE6546B64) % 2**32
    h ^= 16
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor % 2**32
    return h ^ h >> 16


def kept(probs, top_k, top_p, min_p):
    """Token ids that survive the filters, as SGLang's pytorch sampler defines them."""
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    survivors, mass = [], 0.0
    for rank, i in enumerate(order):
        if rank < top_k and (mass <= top_p or top_p >= 1) and probs[i] >= probs[order[0]] * min_p and probs[i] > 0:
            survivors.append(i)
        mass += probs[i]
    return survivors


def gumbel_argmax(probs, top_k, top_p, min_p, seed, position):
    """multinomial_with_seed over the kept tokens, columns being token ids."""

    def score(i):
        u = murmur(seed, position, i) / (2**32 - 1)
        log_u = min(max(math.log(u) if u > 0 else -math.inf, -1.79e308), -(2.0**-32))
        return math.log(probs[i]) - math.log(-log_u)

    return max(kept(probs, top_k, top_p, min_p), key=score)


def draw(ops, probs, top_k=ALL, top_p=1.0, min_p=0.0, seeds=None, positions=None):
    rows = len(probs)

    def column(value, dtype):
        return torch.full((rows,), value, dtype=dtype)

    seeds = torch.arange(rows) if seeds is None else seeds
    positions = torch.zeros(rows, dtype=torch.int64) if positions is None else positions
    filters = (column(top_k, torch.int32), column(top_p, torch.float32), column(min_p, torch.float32))
    return ops.draw_tokens(probs, *filters, seeds, positions)


FILTERS = [
    (ALL, 1.0, 0.0),
    (1, 1.0, 0.0),
    (7, 1.0, 0.0),
    (ALL, 0.8, 0.0),
    (ALL, 1.0, 0.1),
    (50, 0.9, 0.02),
    (3, 0.1, 0.9),
]
SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**62 - 5, -1, -(2**63)]


def test_the_hash_is_murmur3_of_seed_position_and_column(ops):
    positions, columns = torch.arange(len(SEEDS)) * 1000, torch.tensor([0, 1, 255, 256, 49151, 2**31])
    hashed = ops.murmur_hash32_cpu(torch.tensor(SEEDS), positions, columns)
    assert hashed.dtype == torch.uint32
    expected = [[murmur(s, p, c) for c in columns.tolist()] for s, p in zip(SEEDS, positions.tolist(), strict=True)]
    assert hashed.tolist() == expected


def test_the_hash_takes_sglangs_dtypes(ops):
    seeds, positions = torch.tensor([7]).to(torch.uint64), torch.tensor([3], dtype=torch.int32)
    assert ops.murmur_hash32_cpu(seeds, positions, torch.arange(2)).tolist() == [[murmur(7, 3, 0), murmur(7, 3, 1)]]


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), FILTERS)
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 12.0])
def test_a_seeded_draw_is_the_gumbel_argmax_over_the_kept_tokens(ops, top_k, top_p, min_p, sharpness):
    probs = (sharpness * torch.randn(len(SEEDS), 301)).softmax(-1)
    positions = torch.arange(len(SEEDS)) + 5
    drawn = draw(ops, probs, top_k, top_p, min_p, torch.tensor(SEEDS), positions)
    assert drawn.dtype == torch.int32
    rows = zip(probs.tolist(), SEEDS, positions.tolist(), strict=True)
    top_p, min_p = torch.tensor([top_p, min_p]).tolist()  # as float32 holds them
    assert drawn.tolist() == [gumbel_argmax(row, top_k, top_p, min_p, s, p) for row, s, p in rows]


@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
def test_both_implementations_draw_the_same_tokens_from_a_large_vocabulary():
    probs = (4 * torch.randn(3, 49152)).softmax(-1)
    for top_k, top_p, min_p in FILTERS:
        drawn = [draw(implementation(kind), probs, top_k, top_p, min_p).tolist() for kind in ("compiled", "pytorch")]
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(ALL, 1.0, 0.0), (4, 1.0, 0.0), (ALL, 0.75, 0.0), (5, 0.9, 0.2)])
def test_draws_follow_the_filtered_distribution(ops, top_k, top_p, min_p):
    probs, rows = torch.tensor([0.31, 0.02, 0.17, 0.09, 0.24, 0.05, 0.12]), 6000
    drawn = draw(ops, probs.repeat(rows, 1), top_k, top_p, min_p, seeds=torch.arange(rows) * 7919 + 3)
    counts = drawn.bincount(minlength=7)
    support = kept(probs.tolist(), top_k, top_p, min_p)
    expected = probs[support] / probs[support].sum() * rows
    assert counts[support].sum() == rows
    assert chisquare(counts[support].double(), expected.double() * rows / expected.double().sum()).pvalue > 1e-3


def test_positions_draw_independently(ops):
    probs, rows = torch.tensor([0.5, 0.3, 0.2]), 4000
    same_seed = torch.full((rows,), 11)
    drawn = draw(ops, probs.repeat(rows, 1), seeds=same_seed, positions=torch.arange(rows))
    pairs = (drawn[::2] * 3 + drawn[1::2]).bincount(minlength=9)
    expected = torch.outer(probs, probs).flatten().double() * rows / 2
    assert chisquare(pairs.double(), expected * (rows // 2) / expected.sum()).pvalue > 1e-3


def test_a_row_does_not_depend_on_its_neighbours(ops):
    probs = (3 * torch.randn(5, 200)).softmax(-1)
    top_ks, top_ps = torch.tensor([ALL, 1, 9, ALL, 40], dtype=torch.int32), torch.tensor([1.0, 1.0, 0.9, 0.5, 1.0])
    min_ps, seeds, positions = torch.tensor([0.0, 0.0, 0.1, 0.0, 0.05]), torch.arange(5) + 100, torch.arange(5)
    batched = ops.draw_tokens(probs, top_ks, top_ps, min_ps, seeds, positions)
    alone = [
        ops.draw_tokens(*(t[i : i + 1] for t in (probs, top_ks, top_ps, min_ps, seeds, positions))) for i in range(5)
    ]
    assert batched.tolist() == [int(token) for token in alone]


def test_top_k_one_is_the_argmax_and_the_first_of_equals(ops):
    probs = torch.tensor([[0.1, 0.4, 0.4, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert draw(ops, probs, top_k=1).tolist() == probs.argmax(-1).tolist() == [1, 0]


def test_a_token_of_probability_zero_is_never_drawn(ops):
    probs = torch.zeros(200, 50)
    probs[:, 17] = 1.0
    assert set(draw(ops, probs).tolist()) == set(draw(ops, probs, top_p=0.5).tolist()) == {17}


def test_nothing_to_draw_from_is_fine(ops):
    assert draw(ops, torch.empty(0, 10)).shape == (0,)


def test_the_noise_of_a_draw_added_to_the_logarithms_puts_the_drawn_token_first(ops):
    probs, rows = (3 * torch.randn(200, 301)).softmax(-1), torch.arange(200)
    noise = ops.draw_noise(rows * 7919, rows + 5, torch.arange(301))
    assert noise.dtype == torch.float32
    drawn = draw(ops, probs, seeds=rows * 7919, positions=rows + 5)
    assert (probs.log() + noise).argmax(-1).tolist() == drawn.tolist()


def test_noise_is_gumbel_noise_of_the_named_tokens(ops):
    ids = torch.tensor([5, 3, 48_000])
    rows = torch.arange(20_000)
    noise = ops.draw_noise(rows, rows, ids)
    assert torch.equal(noise[:, 1:2], ops.draw_noise(rows, rows, ids[1:2]))
    assert kstest(noise.flatten().double(), "gumbel_r").pvalue > 1e-3
    assert ops.draw_noise(rows[:0], rows[:0], ids).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("vocab", [1, 17, 49152])
def test_softmax_is_of_the_logits_over_the_temperature(ops, vocab, dtype):
    logits, temperatures = (9 * torch.randn(4, vocab)).to(dtype), torch.tensor([[0.5], [1.0], [0.7], [3.0]])
    logits[1, 1:] = -torch.inf
    logits[2] += 200.0
    probs = ops.softmax(logits, temperatures)
    torch.testing.assert_close(probs, (logits.double() / temperatures).softmax(-1).float(), atol=1e-9, rtol=2e-5)
    assert torch.equal(probs[2:3], ops.softmax(logits[2:3], temperatures[2:3])), "a row's bits are its own"
    assert ops.softmax(logits[:0], temperatures[:0]).shape == (0, vocab)


PROPOSALS = {  # temperature, top_k, top_p, min_p
    "greedy": (0.0, ALL, 1.0, 0.0),
    "top_k 1": (0.7, 1, 1.0, 0.0),
    "drawn": (1.0, ALL, 1.0, 0.0),
    "drawn, hot": (3.0, ALL, 1.0, 0.0),
    "top_k": (1.0, 3, 1.0, 0.0),
    "top_p": (0.7, ALL, 0.8, 0.0),
    "min_p": (1.0, ALL, 1.0, 0.1),
    "all filters": (0.5, 20, 0.95, 0.01),
    "top_p of one": (1.0, ALL, 0.0, 0.0),
    "equals": (0.0, ALL, 1.0, 0.0),
}


@pytest.mark.parametrize(("vocab", "count"), [(1, 1), (17, 17), (8192, 4)])
def test_proposals_are_the_likeliest_that_may_be_drawn_with_their_noise(ops, vocab, count):
    rows = len(PROPOSALS)
    logits, seeds, positions = (4 * torch.randn(rows, vocab)).bfloat16(), torch.arange(rows) + 7, torch.arange(rows)
    temperatures, top_ks, top_ps, min_ps = (torch.tensor(column) for column in zip(*PROPOSALS.values(), strict=True))
    token_ids, drawn = torch.randperm(2 * vocab)[:vocab], ((temperatures > 0) & (top_ks > 1)).unsqueeze(1)
    logits[-1] = 1.0
    rest = (top_ks, top_ps, min_ps, seeds, positions, token_ids)
    probs, ids = ops.propose_tokens(logits, count, temperatures, *rest)
    weights, ruled_out = (logits.float() / temperatures.unsqueeze(1)).softmax(-1), drawn.repeat(1, vocab)
    for row in drawn.flatten().nonzero().flatten().tolist():
        survivors = kept(weights[row].tolist(), *(column[row].item() for column in (top_ks, top_ps, min_ps)))
        ruled_out[row, survivors] = False
    noisy = logits.double() + temperatures.unsqueeze(1) * ops.draw_noise(seeds, positions, token_ids)
    expected = torch.where(drawn & ~ruled_out, noisy, logits.double()).softmax(-1).masked_fill(ruled_out, 0)
    assert ids[-1].tolist() == list(range(count)), "the lowest of equals first"
    found = [
        [id_ for id_, p in zip(*row, strict=True) if p > 0] for row in zip(ids.tolist(), probs.tolist(), strict=True)
    ]
    assert all(len(set(row)) == len(row) for row in found)
    torch.testing.assert_close(probs.double(), expected.gather(1, ids) * (probs > 0), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(probs.double(), expected.sort(descending=True)[0][:, :count], atol=1e-7, rtol=1e-4)
    none = [argument[:0] for argument in rest[:-1]]
    nothing, _ = ops.propose_tokens(logits[:0], count, temperatures[:0], *none, token_ids)
    assert nothing.shape == (0, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("vocab", [1, 15, 1024, 1025, 49152])
def test_the_likeliest_token_is_the_lowest_of_the_greatest(ops, vocab, dtype):
    logits = torch.randn(5, vocab).to(dtype)
    logits[2] = -torch.inf
    logits[3, vocab // 2 :] = 60.0
    logits[4] = -1e30
    assert ops.likeliest_tokens(logits).tolist() == logits.argmax(dim=-1).tolist()
    assert ops.likeliest_tokens(logits[:0]).shape == (0,)
