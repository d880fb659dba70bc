# ruff: noqa: N803, N806  shape suffixes
"""Seeded draws from probabilities, in PyTorch; csrc/sampling.h is the fast version and draws the same tokens.

Shapes: R rows, V vocabulary, N columns.
"""

import torch
from torch import Tensor

MURMUR_SCHEMA = "murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor"
DRAW_SCHEMA = (
    "draw_tokens(Tensor probs, Tensor top_ks, Tensor top_ps, Tensor min_ps, Tensor seeds, Tensor positions) -> Tensor"
)
NOISE_SCHEMA = "draw_noise(Tensor seeds, Tensor positions, Tensor token_ids) -> Tensor"
SOFTMAX_SCHEMA = "softmax(Tensor logits, Tensor temperatures) -> Tensor"
PROPOSE_SCHEMA = (
    "propose_tokens(Tensor logits, int count, Tensor temperatures, Tensor top_ks, Tensor top_ps, Tensor min_ps, "
    "Tensor seeds, Tensor positions, Tensor token_ids) -> (Tensor, Tensor)"
)
LIKELIEST_SCHEMA = "likeliest_tokens(Tensor logits) -> Tensor"
COPY_SCHEMA = "copy_slots(Tensor buffers, Tensor bytes_per_slot, Tensor targets, Tensor sources) -> ()"

_WORD = 0xFFFFFFFF


def _rotate_left(x: Tensor, by: int) -> Tensor:
    return ((x << by) | (x >> (32 - by))) & _WORD


def _mix(h: Tensor, block: Tensor) -> Tensor:
    k = _rotate_left((block * 0xCC9E2D51) & _WORD, 15)
    h = _rotate_left(h ^ ((k * 0x1B873593) & _WORD), 13)
    return (h * 5 + 0xE6546B64) & _WORD


def murmur_hash32_cpu(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
    """uint32 [R, N]: MurmurHash3 of (seed low, seed high, position, column), as kernels/ops/sampling/murmur_hash.py.

    Works in int64 with 32-bit words: a product of two words keeps its low 32 bits through int64's wrap-around.
    """
    seeds = seed.view(torch.int64).unsqueeze(1)
    h = _mix(torch.zeros_like(seeds), seeds & _WORD)
    h = _mix(h, (seeds >> 32) & _WORD)
    h = _mix(h, positions.long().unsqueeze(1) & _WORD)
    h = _mix(h, col_indices.long().unsqueeze(0) & _WORD) ^ 16
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _WORD
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _WORD
    return (h ^ (h >> 16)).to(torch.uint32)


def keep_likeliest(probs_RV: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor) -> tuple[Tensor, Tensor]:
    """Rows sorted from the likeliest token down, with what the filters reject set to 0, and the token ids.

    The rules are those of top_k_top_p_min_p_sampling_from_probs_torch (sglang/srt/layers/sampler.py): a token stays
    while its rank is below top_k, the mass before it is at most top_p, and it has min_p times the top probability.
    Nothing is renormalised in between. Ties go by token id, so the order never depends on the batch.
    """
    sorted_RV, ids_RV = probs_RV.sort(dim=-1, descending=True, stable=True)
    mass_before = sorted_RV.double().cumsum(-1) - sorted_RV.double()
    rank = torch.arange(probs_RV.shape[-1]).unsqueeze(0)
    rejected = rank >= top_ks.unsqueeze(1)
    rejected |= (mass_before > top_ps.unsqueeze(1)) & (top_ps < 1).unsqueeze(1)
    rejected |= sorted_RV < (sorted_RV[:, 0] * min_ps).unsqueeze(1)
    return sorted_RV.masked_fill(rejected & (rank > 0), 0), ids_RV


def _waits(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """E_i = -log(u_i), float64 [R, N], u_i hashed from (seed, position, token id)."""
    hashed = murmur_hash32_cpu(seeds.long(), positions, token_ids).double() / _WORD
    return hashed.log_().neg_().clamp_(min=2.0**-32, max=1.79e308)


def draw_noise(seeds: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
    """Gumbel noise of the race, -log(E_i), float32 [R, N]: the drawn token is the argmax of log(weight_i) + noise_i."""
    return _waits(seeds, positions, token_ids).log_().neg_().float()


def race(weights_RV: Tensor, ids_RV: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """Column [R] of the winner of an exponential race: an exact draw proportional to the weights.

    Token i of a row finishes after E_i / weight_i: the Gumbel-argmax of SGLang's multinomial_with_seed, with one
    logarithm less.
    """
    waits = _waits(seeds, positions, torch.arange(weights_RV.shape[-1])).gather(1, ids_RV)
    return torch.where(weights_RV > 0, weights_RV.double() / waits, -1.0).argmax(dim=-1)


def draw_tokens(
    probs_RV: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """int32 token ids [R], one per row of probs_RV; top_k 1 is the argmax (the lowest id of equals)."""
    weights, ids = keep_likeliest(probs_RV, top_ks, top_ps, min_ps)
    columns = race(weights, ids, seeds, positions)
    return ids.gather(1, columns.unsqueeze(1)).squeeze(1).to(torch.int32)


def softmax(logits_RV: Tensor, temperatures: Tensor) -> Tensor:
    """softmax(logits / temperature), float32 [R, V], a row's bits its own; temperatures is [R] or [R, 1]."""
    return (logits_RV.float() / temperatures.view(-1, 1)).softmax(dim=-1)


def add_noise(
    logits_RN: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
    token_ids: Tensor,
) -> Tensor:
    """Logits + temperature * the noise of their row's draw (draw_noise), float32 [R, N]; -inf where filtered.

    The greatest is the draw. It is not divided by the temperature, so that its softmax says how likely the target is to
    draw the same: what the draft mistakes in its logits does not become less when the target draws more narrowly. The
    logits themselves for a row that does not draw: temperature 0 or top_k 1.
    """
    logits_RN, temperatures = logits_RN.float(), temperatures.unsqueeze(1)
    drawn = (temperatures > 0).squeeze(1) & (top_ks > 1)
    kept_RN = torch.ones_like(logits_RN, dtype=torch.bool)
    filtered = (drawn & ((top_ks < logits_RN.shape[1]) | (top_ps < 1) | (min_ps > 0))).nonzero().flatten()
    if len(filtered):
        probs = (logits_RN[filtered] / temperatures[filtered]).softmax(-1)
        weights, ids = keep_likeliest(probs, top_ks[filtered], top_ps[filtered], min_ps[filtered])
        kept_RN[filtered] = torch.zeros_like(weights).scatter(1, ids, weights) > 0
    noisy_RN = logits_RN + temperatures * draw_noise(seeds, positions, token_ids)
    return torch.where(drawn.unsqueeze(1), noisy_RN.masked_fill(~kept_RN, -torch.inf), logits_RN)


def propose_tokens(logits_RN: Tensor, count: int, *draw: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 probabilities, int64 columns), both [R, count]: the likeliest columns, the lowest of equals first.

    Of what add_noise makes of the logits and `draw`, its other arguments; where its filters keep fewer columns, the
    rest have probability 0. What they do not keep is in the softmax as it is: the target's own filters may keep it.
    """
    scores_RN = add_noise(logits_RN, *draw)
    kept_RN = scores_RN > -torch.inf
    probs_RN = torch.where(kept_RN, scores_RN, logits_RN.float()).softmax(-1) * kept_RN
    sorted_RN, columns = probs_RN.sort(descending=True, stable=True)
    return sorted_RN[:, :count], columns[:, :count]


def likeliest_tokens(logits_RV: Tensor) -> Tensor:
    """int64 token ids [R]: each row's greatest logit, the lowest id of equals."""
    return logits_RV.argmax(dim=-1)
