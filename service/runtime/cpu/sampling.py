# ruff: noqa: ANN401, FBT001, N803, N806, PLC0415, PLR0913  SGLang's objects and signatures; shape suffixes; its imports wait for their hooks
"""Exact, seeded sampling on CPU, with and without speculation: hooks into SGLang's sampler and verifier.

Stock SGLang 0.5.23 verifies greedily on CPU at any temperature, and honours a request's seed only under
--enable-deterministic-inference. Here every token, plain or speculative, is one draw from the target's distribution
(csrc/sampling.h, sgl_kernel/draw.py), seeded by the request and by the position of the token it follows:

- plain decoding: the two samplers in sglang/srt/layers/sampler.py are replaced by the draw;
- verification: one token is drawn at every node of the tree and the tree is then verified against these draws, as
  SGLang does for its UNO algorithm. Whatever the draft proposed, the emitted tokens are the target's own draws: the
  output has exactly the target's distribution, and with a seed it is the very text plain decoding gives.

Owns no scheduling and no logits processing.

Shapes: B requests, N draft tokens per request, R = B * N rows, V vocabulary.
"""

import importlib
import secrets
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_UNO_UTILS = "sglang.srt.speculative.uno_utils"


def request_seed(sampling_params: Any) -> int:
    """The request's seed; one is drawn, once, for a request without."""
    if sampling_params.sampling_seed is None:
        sampling_params.sampling_seed = secrets.randbits(62)
    return int(sampling_params.sampling_seed)


def set_seeds(info: Any, _cls: type, batch: Any, *_args: object, **_kwargs: object) -> Any:
    """After SamplingBatchInfo.from_schedule_batch: give every row a seed (merge_batch keeps all or none)."""
    seeds = [request_seed(req.sampling_params) for req in batch.reqs]
    info.sampling_seed = torch.tensor(seeds, dtype=torch.int64)
    return info


def _draw(probs_RV: Tensor, top_ks: Tensor, top_ps: Tensor, min_ps: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    drawn: Tensor = torch.ops.aerie_cpu.draw_tokens(probs_RV, top_ks, top_ps, min_ps, seeds, positions)
    return drawn


def _seeds_or_fresh(seeds: Tensor | None, rows: int) -> Tensor:
    return torch.randint(2**62, (rows,)) if seeds is None else seeds


def softmax(logits_RV: Tensor) -> Tensor:
    """Replaces sampler_softmax, whose logits are divided by the temperature: the bits of draw_targets."""
    probs_RV: Tensor = torch.ops.aerie_cpu.softmax(logits_RV, torch.ones(len(logits_RV)))
    return probs_RV


def draw_unfiltered(probs_RV: Tensor, sampling_seed: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
    """Replaces sampling_from_probs_torch: int32 [R]."""
    rows, vocab = probs_RV.shape
    ones = torch.ones(rows)
    seeds = _seeds_or_fresh(sampling_seed, rows)
    at = torch.zeros(rows, dtype=torch.int64) if positions is None else positions
    return _draw(probs_RV, torch.full((rows,), vocab), ones, torch.zeros(rows), seeds, at)


def draw_filtered(
    probs_RV: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    need_min_p_sampling: bool,
    sampling_seed: Tensor | None,
    positions: Tensor,
    *,
    return_filtered_probs: bool = False,
    max_top_k: int | None = None,
) -> Any:
    """Replaces top_k_top_p_min_p_sampling_from_probs_torch: int32 [R], by the same rules, and min_p works with a seed.

    With return_filtered_probs also the sorted weights [R, V], their token ids and the weight of the drawn token.
    """
    del need_min_p_sampling, max_top_k
    drawn = _draw(probs_RV, top_ks, top_ps, min_ps, _seeds_or_fresh(sampling_seed, len(probs_RV)), positions)
    if not return_filtered_probs:
        return drawn
    draw = importlib.import_module("sgl_kernel.draw")  # this process's copy, under the name SGLang uses
    weights, ids = draw.keep_likeliest(probs_RV, top_ks, top_ps, min_ps)
    weight_of_drawn = (weights * (ids == drawn.unsqueeze(1))).sum(-1)
    return drawn, weights, ids.to(torch.int32), weight_of_drawn


def remember_positions(verify_input: Any, batch: Any, *_args: object, **_kwargs: object) -> None:
    """Before eagle_sample: leave the tree's positions [R] where draw_tree_targets, which is not given them, looks."""
    batch.sampling_info.verify_positions = verify_input.positions


def draw_targets(logits_RV: Tensor, info: Any, positions: Tensor, owners: Tensor) -> Tensor:
    """The target's token after each row, [R]: the token at positions [R] of request owners [R] was the row's input.

    Plain decoding seeds a draw with the same position.
    """
    if info.is_all_greedy:
        likeliest: Tensor = torch.ops.aerie_cpu.likeliest_tokens(logits_RV)
        return likeliest
    probs_RV = torch.ops.aerie_cpu.softmax(logits_RV, info.temperatures[owners])
    filters = (info.top_ks[owners], info.top_ps[owners], info.min_ps[owners])
    return _draw(probs_RV, *filters, info.sampling_seed[owners], positions).long()


def draw_tree_targets(
    *, next_token_logits: Tensor, sampling_info: Any, batch_size: int, verify_width: int, max_top_k: int | None = None
) -> Tensor:
    """Stands for uno_utils.sample_uno_tree_target_tokens: the target's draw at every node, [B, N]."""
    del max_top_k
    owners = torch.arange(batch_size).repeat_interleave(verify_width)
    drawn = draw_targets(next_token_logits, sampling_info, sampling_info.verify_positions, owners)
    return drawn.view(batch_size, verify_width)


def register() -> None:
    """Register the hooks; SGLang applies them in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    sampler, eagle = "sglang.srt.layers.sampler", "sglang.srt.speculative.eagle_utils"
    info = "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo"
    HookRegistry.register(f"{info}.from_schedule_batch", set_seeds, HookType.AFTER)
    HookRegistry.register(f"{sampler}.sampler_softmax", softmax, HookType.REPLACE)
    HookRegistry.register(f"{sampler}.sampling_from_probs_torch", draw_unfiltered, HookType.REPLACE)
    HookRegistry.register(f"{sampler}.top_k_top_p_min_p_sampling_from_probs_torch", draw_filtered, HookType.REPLACE)
    HookRegistry.register(f"{eagle}.eagle_sample", remember_positions, HookType.BEFORE)
    HookRegistry.register(f"{eagle}._verify_uses_greedy", lambda **_: False, HookType.REPLACE)
    HookRegistry.register(f"{eagle}._can_use_sparse_uno_tree_target_sampling", lambda *_: True, HookType.REPLACE)
    # The real module needs flashinfer, so it cannot be imported here; eagle_sample looks this one name up in it.
    uno_utils = ModuleType(_UNO_UTILS)
    uno_utils.sample_uno_tree_target_tokens = draw_tree_targets  # type: ignore[attr-defined]
    sys.modules[_UNO_UTILS] = uno_utils
