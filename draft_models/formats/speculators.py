"""Drafts of vLLM's `speculators` (`src/speculators/models/eagle3`): RedHatAI/*-speculator.eagle3.

The decoder layer's configuration is nested in `transformer_layer_config`, tensors are `layers.0.*`, and a copy of the
target's embedding comes with them (`verifier_norm` and `verifier_lm_head` are the target's too, for training).

`eagle_aux_hidden_state_layer_ids` (top level) are vLLM's: the *inputs* of these layers, so Hugging Face's indices as
they are; absent or null, [2, n // 2, n - 3]. Converted drafts exist that carry SGLang's numbers here, and speculators'
own data generator captured outputs until April 2026 (#433): both are one layer off, and only measuring tells.

`norm_before_residual` is speculators' default in training (`train/config/schema.py`); absent, vLLM reads it as true.
"""

from collections.abc import Mapping
from typing import Any

from draft_models.config import default_taps
from draft_models.errors import FormatError
from draft_models.formats.reading import REFUSED_FLAGS, Reading, layer_ids, llama_layer, refusals, whole_number

NAME = "speculators"
LAYER_MODELS = ("llama", "qwen3")
KEY = "eagle_aux_hidden_state_layer_ids"


def recognises(config: Mapping[str, Any], names: frozenset[str]) -> bool:  # noqa: ARG001  a format may ask either
    """By its own keys."""
    return "speculators_model_type" in config or "speculators_config" in config


def read(config: Mapping[str, Any], num_target_layers: int) -> Reading:
    """Raises FormatError: not of EAGLE-3, or no Llama layer; ConfigError: no taps, and a small target."""
    algorithm = config.get("speculators_model_type")
    if algorithm != "eagle3":
        raise FormatError(f"speculators_model_type is {algorithm!r}: only eagle3 drafts can be imported")
    nested = config.get("transformer_layer_config")
    if not isinstance(nested, dict) or nested.get("model_type") not in LAYER_MODELS:
        kind = nested.get("model_type") if isinstance(nested, dict) else nested
        raise FormatError(f"transformer_layer_config is of model_type {kind!r}; known: {', '.join(LAYER_MODELS)}")
    layers = layer_ids(config.get(KEY), KEY)
    return Reading(
        layer=llama_layer(nested),
        draft_vocab_size=whole_number(config, "draft_vocab_size"),
        taps=default_taps(num_target_layers) if layers is None else layers,
        refusals=_refusals(config, nested),
        warnings=(*_counting(layers, num_target_layers), *_window(nested)),
    )


def sglang_name(name: str) -> str:
    """`layers.0` is SGLang's midlayer."""
    return f"midlayer.{name.removeprefix('layers.0.')}" if name.startswith("layers.0.") else name


def _refusals(config: Mapping[str, Any], nested: Mapping[str, Any]) -> tuple[str, ...]:
    own = {name: value for name, value in config.items() if name != "tie_word_embeddings"}  # of no module of theirs
    found = (*refusals(own), *refusals({"hidden_act": nested.get("hidden_act")}))
    if "norm_before_residual" not in config:
        found += (f"norm_before_residual is absent, which vLLM reads as true: {REFUSED_FLAGS['norm_before_residual']}",)
    return found


def _counting(layers: tuple[int, ...] | None, num_target_layers: int) -> tuple[str, ...]:
    if layers != (1, num_target_layers // 2 - 1, num_target_layers - 4):
        return ()
    higher = ",".join(str(layer + 1) for layer in layers)
    counted = f"{KEY} {list(layers)} are the usual taps as SGLang counts; vLLM reads them one layer earlier"
    return (f"{counted}. Compare with --taps {higher}",)


def _window(nested: Mapping[str, Any]) -> tuple[str, ...]:
    if "sliding_attention" not in (nested.get("layer_types") or ()):
        return ()
    size = nested.get("sliding_window")
    return (f"it was trained with a window of {size} tokens: serve it with --speculative-draft-window-size {size}",)
