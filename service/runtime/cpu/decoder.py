# ruff: noqa: ANN401, FBT003, N803, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""Runs a Llama model's decoder layers, and EAGLE-3's, as one op: hooks on SGLang's two LlamaModel.forward.

Of a small model's decoding step, more than half was Python between the kernels of its layers.
`aerie_cpu::decoder_layers` (sgl_kernel/decoder.py) is told once a pass what they share, and gives the same bits. What
it was not made for goes through SGLang's own layers: float32, biases, sliding windows, subclasses with other layers.

Shapes: T tokens, E hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_REMEMBERED = "aerie_layers"
_packings = 0  # how often this process packed a weight: what is remembered of a model holds until there is a newer one


@dataclass(frozen=True)
class Layers:
    """What a model's layers bring to every pass."""

    weights: list[Tensor]
    final_norm: Tensor
    hidden_norm: Tensor | None  # EAGLE-3's, as is the next
    fuse_features: Tensor | None  # its fc [E, 3E], packed
    eps: float
    rotary: Any
    ids: list[int]
    scaling: float


def count_packing(*_: object) -> None:
    """After UnquantizedLinearMethod.process_weights_after_loading."""
    global _packings  # noqa: PLW0603
    _packings += 1


def _modules(layer: Any) -> list[Any]:
    """In the op's order."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return [norms[0], attention.qkv_proj, attention.o_proj, norms[1], mlp.gate_up_proj, mlp.down_proj]


def _served(module: Any) -> bool:
    """A bfloat16 norm, or a packed bfloat16 matrix without bias."""
    weight = module.weight
    packed = weight.dim() == 1 or getattr(module, "use_intel_amx_backend", False)
    return packed and weight.dtype == torch.bfloat16 and getattr(module, "bias", None) is None


def _shared(layer: Any) -> tuple[Any, ...]:
    """What the op takes once for all layers."""
    attention = layer.self_attn.attn
    return (layer.self_attn.rotary_emb, attention.scaling, layer.input_layernorm.variance_epsilon)


def layers_of(model: Any) -> Layers | None:
    """The layers of a model that the op serves, None for any other; found out once for each load of its weights."""
    known: tuple[int, Layers | None] | None = model.__dict__.get(_REMEMBERED)
    if known is None or known[0] != _packings:
        known = model.__dict__[_REMEMBERED] = (_packings, _find_layers(model))
    return known[1]


def _find_layers(model: Any) -> Layers | None:
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
    from sglang.srt.models import llama, llama_eagle3

    if type(model) not in {llama.LlamaModel, llama_eagle3.LlamaModel}:
        return None
    layers = list(model.layers)
    rotary, scaling, eps = _shared(layers[0])
    drafts = isinstance(model, llama_eagle3.LlamaModel)
    hidden_norm = layers[0].hidden_norm if drafts else None
    layer_class = llama_eagle3.LlamaDecoderLayer if drafts else llama.LlamaDecoderLayer
    served = (
        all(type(layer) is layer_class and _shared(layer) == (rotary, scaling, eps) for layer in layers)
        and all(_served(module) for layer in layers for module in _modules(layer))
        and all(_served(norm) and norm.variance_epsilon == eps for norm in (model.norm, hidden_norm or model.norm))
        and all(
            layer.self_attn.attn.sliding_window_size <= 0 and not layer.self_attn.attn.logit_cap for layer in layers
        )
        and type(rotary).forward_cpu is RotaryEmbedding.forward_cpu
        and not (drafts and (len(layers) > 1 or model.is_mrope_enabled or model.input_norm or model.fc_norm))
    )
    if not served:
        return None
    return Layers(
        [module.weight.data for layer in layers for module in _modules(layer)],
        model.norm.weight.data,
        None if hidden_norm is None else hidden_norm.weight.data,
        None if hidden_norm is None else torch.ops.sgl_kernel.convert_weight_packed(model.fc.weight.data),
        eps,
        rotary,
        [layer.self_attn.attn.layer_id for layer in layers],
        scaling,
    )


@dataclass(frozen=True)
class Span:
    """The new tokens of B requests, and where the cache holds them and what they follow."""

    slots: Tensor  # [T]
    table: Tensor  # int32, a row for each request: the slots of its tokens
    rows: Tensor  # [B], into the table
    lengths: Tensor  # [B], with the new tokens
    extends: Tensor  # [B], the new tokens alone
    tree_mask: Tensor | None = None  # as in extend_attention_cpu; None for a chain


def span_of(batch: Any, backend: Any) -> Span:
    """Of SGLang's ForwardBatch, after its attention backend was told of it."""
    table = backend.req_to_token_pool.req_to_token
    if batch.forward_mode.is_decode():
        rows, lengths = batch.req_pool_indices, batch.seq_lens
        if backend.draft_decode_metadata is not None:
            table, lengths, rows = backend.draft_decode_metadata
        return Span(batch.out_cache_loc, table, rows, lengths, torch.ones_like(lengths))
    lengths, extends, _, tree_mask = backend.extend_metadata
    return Span(batch.out_cache_loc, table, batch.req_pool_indices, lengths, extends, tree_mask)


def run_layers(
    layers: Layers,
    hidden_TE: Tensor,
    embeds_TE: Tensor | None,
    positions: Tensor,
    pool: Any,
    span: Span,
    captured: list[int],
) -> tuple[Tensor, Tensor]:
    """One pass: (the normed hidden states [T, E], the captured residual streams [T, len(captured) * E])."""
    layers.rotary._match_cos_sin_cache_dtype(hidden_TE)
    caches = [buffer for i in layers.ids for buffer in (pool.get_key_buffer(i), pool.get_value_buffer(i))]
    normed, kept = torch.ops.aerie_cpu.decoder_layers(
        hidden_TE, embeds_TE, layers.hidden_norm, layers.weights, layers.final_norm, layers.eps,
        positions, layers.rotary.cos_sin_cache, layers.rotary.is_neox_style, caches, span.slots,
        span.table, span.rows, span.lengths, span.extends, span.tree_mask, layers.scaling, captured,
    )  # fmt: skip
    return normed, kept


def run_draft_layer(
    model: Any, layers: Layers, hidden_TE: Tensor, input_ids: Tensor, positions: Tensor, pool: Any, span: Span
) -> tuple[Tensor, list[Tensor]]:
    """What llama_eagle3.LlamaModel.forward returns: states for the head, and in a list those for the next step."""
    embeds_TE = functional.embedding(input_ids, model.embed_tokens.weight)
    if hidden_TE.shape[-1] != embeds_TE.shape[-1]:
        hidden_TE = torch.ops.sgl_kernel.weight_packed_linear(hidden_TE, layers.fuse_features, model.fc.bias, True)
    normed, stream = run_layers(layers, hidden_TE, embeds_TE, positions, pool, span, [1])
    return normed, [normed if model.norm_output else stream]


def run_target_layers(
    model: Any, layers: Layers, input_ids: Tensor, positions: Tensor, pool: Any, span: Span
) -> tuple[Tensor, Tensor]:
    """(Normed hidden states [T, E], the features that model.layers_to_capture names [T, as many * E])."""
    hidden_TE = functional.embedding(input_ids, model.embed_tokens.weight)
    return run_layers(layers, hidden_TE, None, positions, pool, span, sorted(model.layers_to_capture))


def run_model(
    forward: Callable[..., Any],
    model: Any,
    input_ids: Tensor,
    positions: Tensor,
    forward_batch: Any,
    input_embeds: Tensor | None = None,
    **pipeline: Any,
) -> Any:
    """Around both LlamaModel.forward. Embeddings that do not come from token ids go through SGLang's own layers."""
    layers = layers_of(model)
    embedded = input_embeds is not None or forward_batch.mm_input_embeds is not None
    if layers is None or embedded or not len(positions):
        return forward(model, input_ids, positions, forward_batch, input_embeds, **pipeline)
    from sglang.srt.model_executor.forward_context import get_attn_backend

    backend = get_attn_backend()
    pool, span = backend.token_to_kv_pool, span_of(forward_batch, backend)
    if layers.hidden_norm is not None:
        hidden_TE = forward_batch.spec_info.hidden_states
        return run_draft_layer(model, layers, hidden_TE, input_ids, positions, pool, span)
    normed, features = run_target_layers(model, layers, input_ids, positions, pool, span)
    return (normed, features) if model.layers_to_capture else normed


def register() -> None:
    """Register the hooks; SGLang applies them in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # not before prepare_process

    linear = "sglang.srt.layers.quantization.unquant.UnquantizedLinearMethod"
    HookRegistry.register(f"{linear}.process_weights_after_loading", count_packing, HookType.AFTER)
    for models in ("llama", "llama_eagle3"):
        HookRegistry.register(f"sglang.srt.models.{models}.LlamaModel.forward", run_model, HookType.AROUND)
