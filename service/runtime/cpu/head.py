# ruff: noqa: ANN401  SGLang's objects
"""Packs the output projection of models that tie it to the embedding.

SGLang 0.5.23 packs a `ParallelLMHead`, but a tied model's head is its embedding, which must stay as it is for look-ups.
The logits processor is handed a packed copy instead, made at the first use after weights were loaded.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_COPY = "aerie_packed_head"


def forget_packed_head(_result: None, _method: Any, layer: Any) -> None:
    """After UnquantizedEmbeddingMethod.process_weights_after_loading: the weights are new."""
    layer.__dict__.pop(_COPY, None)


def packed(lm_head: Any) -> Any:
    """The head, or a stand-in, whose bfloat16 weight is packed; None for what is not such a head."""
    weight = getattr(lm_head, "weight", None)
    if weight is None or weight.dtype != torch.bfloat16:
        return None
    if getattr(lm_head, "use_intel_amx_backend", False):
        return lm_head
    if _COPY not in lm_head.__dict__:
        copy = torch.ops.sgl_kernel.convert_weight_packed(weight)
        lm_head.__dict__[_COPY] = SimpleNamespace(weight=copy, use_intel_amx_backend=True)
    return lm_head.__dict__[_COPY]


def use_packed_head(
    processor: Any, hidden_states: Tensor, lm_head: Any, *args: object, **kwargs: object
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Before LogitsProcessor._compute_lm_head: the arguments, with a packed copy of a head that is not packed."""
    return (processor, hidden_states, packed(lm_head) or lm_head, *args), kwargs


def register() -> None:
    """Register the hooks; SGLang applies them in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415  not before prepare_process

    embedding = "sglang.srt.layers.quantization.unquant.UnquantizedEmbeddingMethod"
    HookRegistry.register(f"{embedding}.process_weights_after_loading", forget_packed_head, HookType.AFTER)
    logits = "sglang.srt.layers.logits_processor.LogitsProcessor"
    HookRegistry.register(f"{logits}._compute_lm_head", use_packed_head, HookType.BEFORE)
