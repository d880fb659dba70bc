# ruff: noqa: ANN401, FBT003, N803, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""Grows EAGLE-3's chain or tree without a ForwardBatch for each step: a hook on EagleDraftWorker.draft_forward.

A draft step is one layer and a head of a few thousand tokens, a millisecond; SGLang's runner, made for graphs, takes
about as long to prepare it. What is drafted is the same. Drafts that decoder.py does not serve go the other way.

Shapes: B requests, K branches each (topk), R = B * K rows, E hidden size, D draft vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import coupling, decoder


def _layers(worker: Any, batch: Any) -> decoder.Layers | None:
    """The draft's layers if it can be run from here."""
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    draft = worker.draft_runner.model
    head = getattr(draft, "lm_head", None)
    if type(draft) is not LlamaForCausalLMEagle3 or not getattr(head, "use_intel_amx_backend", False):
        return None
    if batch.forward_mode.is_idle() or worker.draft_runner.canary_manager is not None:
        return None
    return decoder.layers_of(draft.model)


def grow_drafts(draft_forward: Callable[..., Any], worker: Any, batch: Any) -> Any:
    """Around EagleDraftWorker.draft_forward: (parents, indices of the best scores, draft tokens, None)."""
    layers = _layers(worker, batch)
    if layers is None:
        return draft_forward(worker, batch)
    from sglang.srt.speculative import eagle_utils, spec_utils

    draft, topk, steps = worker.draft_runner.model, worker.topk, worker.speculative_num_steps
    slots = eagle_utils.per_step_draft_out_cache_loc(batch.out_cache_loc, batch.batch_size, topk, steps)
    hidden_RE, topk_p, topk_index = batch.spec_info.hidden_states, batch.spec_info.topk_p, batch.spec_info.topk_index
    scores, tree = None, []
    for step in range(steps):
        if worker.hot_token_id is not None:
            topk_index = worker.hot_token_id[topk_index]
        if topk == 1:
            input_ids = topk_index.flatten()
            tree.append((topk_p, topk_index, None))
        else:
            input_ids, hidden_RE, scores, grown = spec_utils.select_top_k_tokens(
                step, topk_p, topk_index, hidden_RE, scores, topk
            )
            tree.append(grown)
        if step == steps - 1:
            break
        batch.out_cache_loc = slots[step]
        backend = worker.draft_attn_backend.attn_backends[step]
        normed_RE, (hidden_RE,) = decoder.run_draft_layer(
            draft.model, layers, hidden_RE, input_ids, batch.positions, batch, backend
        )
        topk_p, topk_index = _likeliest(_logits(draft, normed_RE, batch), topk)
        batch.positions.add_(1)
    scores_of, tokens_of, parents_of = zip(*tree, strict=True)
    if topk == 1:
        rows = len(tokens_of[0])
        parents, indices = worker._topk1_parents_prealloc[:rows], worker._topk1_score_indices_prealloc[:rows]
        return parents, indices, torch.cat(tokens_of, dim=1), None
    drafted = eagle_utils.organize_draft_results(
        list(scores_of), list(tokens_of), list(parents_of), worker.speculative_num_draft_tokens
    )
    return *drafted, None


def _logits(draft: Any, normed_RE: Tensor, batch: Any) -> Tensor:
    """float32 [R, D], with the noise of the target's draw."""
    logits_RD = torch.ops.sgl_kernel.weight_packed_linear(normed_RE, draft.lm_head.weight, None, True)
    logits_RD = logits_RD[:, : draft.config.draft_vocab_size].float()
    return coupling.add_noise(logits_RD, draft, batch.positions, batch)


def _likeliest(logits_RD: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Probabilities and draft ids, both [R, K]; a chain's probability is not looked at."""
    if topk == 1:
        ids = torch.ops.aerie_cpu.likeliest_tokens(logits_RD).unsqueeze(1)
        return torch.ones(ids.shape), ids
    probs, ids = logits_RD.softmax(-1).topk(topk, dim=-1)
    return probs, ids


def register() -> None:
    """Register the hook; SGLang applies it in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # not before prepare_process

    worker = "sglang.srt.speculative.eagle_worker_v2.EagleDraftWorker"
    HookRegistry.register(f"{worker}.draft_forward", grow_drafts, HookType.AROUND)
