# ruff: noqa: ANN401, FBT003, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""A pass of the target model for a scheduled batch without a ForwardBatch, and for which batches that may be done.

SGLang prepares each pass for CUDA graphs, several devices and every feature it has: one to two milliseconds of Python,
where a pass of a small model takes ten. The usual batch, whose logits are sampled as they are, needs none of it.

What is counted and looked up for a few dozen rows is so in lists: shorter to write than on tensors, and no slower.

Shapes: B requests, T new tokens of theirs, E hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import decoder, head


def samples_as_is(batch: Any) -> bool:
    """No grammar, penalties, biases or anything else that bends logits, and nobody who wants hidden states."""
    info = batch.sampling_info
    penalties = info.penalizer_orchestrator
    return not (
        batch.forward_mode.is_idle()
        or batch.has_grammar
        or batch.return_hidden_states
        or batch.hicache_consumer_index >= 0
        or info.has_custom_logit_processor
        or info.has_watermark_candidates
        or (penalties is not None and penalties.is_required)
        or any(
            extra is not None
            for extra in (
                batch.hisparse_coordinator,
                info.logit_bias,
                info.acc_additive_penalties,
                info.acc_scaling_penalties,
                info.sampling_mask_batch_indices,
            )
        )
    )


def can_run(runner: Any) -> bool:
    """A Llama with its logits as they are, one KV cache for all layers, and nobody who watches its passes."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.models.llama import LlamaForCausalLM

    model = runner.model
    return (
        type(model) is LlamaForCausalLM
        and decoder.layers_of(model.model) is not None
        and head.packed(model.lm_head) is not None
        and model.logits_processor.logit_scale is None
        and not model.logits_processor.final_logit_softcapping
        and type(runner.token_to_kv_pool) is MHATokenToKVPool
        and runner.canary_manager is None
        and runner.lora_manager is None
    )


def slots_after(batch: Any, count: int) -> list[list[int]]:
    """[B, count]: the cache slots that are set aside for what follows each request's seq_lens."""
    table, lengths = batch.req_to_token_pool.req_to_token, batch.seq_lens.tolist()
    places = zip(batch.req_pool_indices.tolist(), lengths, strict=True)
    return [table[row, length : length + count].tolist() for row, length in places]


def owners_of(counts: list[int]) -> list[int]:
    """Of sum(counts) rows, counts[i] of them i's: whose each is."""
    return [i for i, count in enumerate(counts) for _ in range(count)]


def span_after(
    batch: Any, slots: list[list[int]], counts: list[int], tree_mask: list[bool] | None = None
) -> decoder.Span:
    """The counts [B] new tokens that follow each request's seq_lens, in the first of its slots [B][count or more]."""
    table, extends = batch.req_to_token_pool.req_to_token, torch.tensor(counts)
    into = torch.tensor([slot for own, count in zip(slots, counts, strict=True) for slot in own[:count]])
    mask = None if tree_mask is None else torch.tensor(tree_mask)
    return decoder.Span(into, table, batch.req_pool_indices, batch.seq_lens + extends, extends, mask)


def run_target(runner: Any, input_ids: Tensor, positions: Tensor, span: decoder.Span) -> tuple[Tensor, Tensor]:
    """(bfloat16 logits [T, V], the features that the draft was trained on [T, captured layers * E])."""
    model = runner.model
    layers = decoder.layers_of(model.model)
    assert layers is not None, "can_run first"
    normed_TE, features = decoder.run_target_layers(
        model.model, layers, input_ids, positions, runner.token_to_kv_pool, span
    )
    weight = head.packed(model.lm_head).weight
    logits_TV = torch.ops.sgl_kernel.weight_packed_linear(normed_TE, weight, None, True)
    return logits_TV[:, : model.config.vocab_size], features
