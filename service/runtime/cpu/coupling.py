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


def _draw_of(info: Any, owners: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
    """Each row's temperature, filters, seed and position of the draw; row r is request owners[r]'s.

    A row of the draft's at position p is about the token that follows position p + 1, its input being one ahead.
    """
    of_requests = (info.temperatures.flatten(), info.top_ks, info.top_ps, info.min_ps, info.sampling_seed)
    return (*(column[owners] for column in of_requests), positions + 1)


def _token_ids(draft: Any, logits_RD: Tensor) -> Tensor:
    """The target's ids of the draft's columns."""
    return torch.arange(logits_RD.shape[1]) if draft.hot_token_id is None else draft.hot_token_id


def propose(
    logits_RD: Tensor, count: int, draft: Any, positions: Tensor, info: Any, owners: Tensor
) -> tuple[Tensor, Tensor]:
    """The `count` likeliest columns of bfloat16 logits with their noise, and their probabilities, both [R, count]."""
    if info.is_all_greedy:
        none, ones = torch.zeros(len(logits_RD)), torch.ones(len(logits_RD), dtype=torch.int64)
        draw: tuple[Tensor, ...] = (none, ones, none, none, ones, ones)
    else:
        draw = _draw_of(info, owners, positions)
    probs, ids = torch.ops.aerie_cpu.propose_tokens(logits_RD, count, *draw, _token_ids(draft, logits_RD))
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
    draw = importlib.import_module("sgl_kernel.draw")  # this process's copy, under the name SGLang uses
    output.next_token_logits = draw.add_noise(
        logits_RD, *_draw_of(info, owners, positions), _token_ids(draft, logits_RD)
    )
    return output


def register() -> None:
    """Register the hook; SGLang applies it in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415  not before prepare_process

    draft = "sglang.srt.models.llama_eagle3.LlamaForCausalLMEagle3.forward"
    HookRegistry.register(draft, propose_draws, HookType.AFTER)
