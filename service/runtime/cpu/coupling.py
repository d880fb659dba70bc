# ruff: noqa: ANN401, N803, N806  SGLang's objects; shape suffixes
"""Drafts drawn with the target's own randomness: what lets a chain be accepted at temperature above 0.

The target's token is the winner of a race (csrc/sampling.h) whose noise hangs on the request's seed, the position and
the token alone. So the draft model runs the same race with its own distribution: it proposes not its likeliest token
but the one that the target will draw, as far as it knows the target (Gumbel coupling: Daliri, Musco and Suresh, arXiv
2408.07978). A tree grows by the same noise. What is emitted stays the target's draw, whatever was proposed.

Shapes: B requests, R rows of logits, D draft vocabulary.
"""

import importlib
from typing import Any

import torch
from torch import Tensor


def add_noise(logits_RD: Tensor, draft: Any, positions: Tensor, info: Any, owners: Tensor) -> Tensor:
    """The draft's logits with the noise of the draw, for requests that sample; row r is request owners[r]'s.

    A row of the draft's at position p is about the token that follows position p + 1, its input being one ahead.
    """
    scaled_RD, top_ks = logits_RD / info.temperatures[owners], info.top_ks[owners]
    if _filters(info):
        draw = importlib.import_module("sgl_kernel.draw")  # this process's copy, under the name SGLang uses
        weights, ids = draw.keep_likeliest(scaled_RD.softmax(-1), top_ks, info.top_ps[owners], info.min_ps[owners])
        scaled_RD = scaled_RD.scatter(1, ids, scaled_RD.gather(1, ids).masked_fill_(weights == 0, -torch.inf))
    seeds, token_ids = info.sampling_seed[owners], _token_ids(draft, logits_RD)
    noise_RD = torch.ops.aerie_cpu.draw_noise(seeds, positions + 1, token_ids)
    return torch.where(top_ks.unsqueeze(1) > 1, scaled_RD + noise_RD, logits_RD)


def _filters(info: Any) -> bool:
    return bool(info.need_top_k_sampling or info.need_top_p_sampling or info.need_min_p_sampling)


def _token_ids(draft: Any, logits_RD: Tensor) -> Tensor:
    """The target's ids of the draft's columns."""
    return torch.arange(logits_RD.shape[1]) if draft.hot_token_id is None else draft.hot_token_id


def propose(
    logits_RD: Tensor, count: int, draft: Any, positions: Tensor, info: Any, owners: Tensor
) -> tuple[Tensor, Tensor]:
    """The `count` likeliest columns of bfloat16 logits with their noise, and their probabilities, both [R, count]."""
    rows = len(logits_RD)
    if info.is_all_greedy:
        temperatures, seeds = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    elif _filters(info):
        noisy_RD = add_noise(logits_RD, draft, positions, info, owners)
        probs, ids = torch.ops.aerie_cpu.softmax(noisy_RD, torch.ones(rows)).topk(count, dim=-1)
        return probs, ids
    else:
        temperatures, seeds = info.temperatures.flatten()[owners], info.sampling_seed[owners]
    probs, ids = torch.ops.aerie_cpu.propose_tokens(
        logits_RD, count, temperatures, seeds, positions + 1, _token_ids(draft, logits_RD)
    )
    return probs, ids


def propose_draws(
    output: Any,
    draft: Any,
    _input_ids: Tensor,
    positions: Tensor,
    batch: Any,
    *_args: object,
    **_kwargs: object,
) -> Any:
    """After LlamaForCausalLMEagle3.forward: as many rows of logits for each request, or one after a prompt."""
    logits_RD, info = output.next_token_logits, batch.sampling_info
    if logits_RD is None or info is None or info.is_all_greedy or not len(logits_RD):
        return output
    if len(positions) != len(logits_RD):  # a prompt
        positions = positions[batch.extend_seq_lens.cumsum(0) - 1]
    requests = len(info.temperatures)
    owners = torch.arange(requests).repeat_interleave(len(logits_RD) // requests)
    output.next_token_logits = add_noise(logits_RD, draft, positions, info, owners)
    return output


def register() -> None:
    """Register the hook; SGLang applies it in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415  not before prepare_process

    draft = "sglang.srt.models.llama_eagle3.LlamaForCausalLMEagle3.forward"
    HookRegistry.register(draft, propose_draws, HookType.AFTER)
