"""SGLang's own format, which SpecForge (`specforge/export/to_sglang.py`) and we write: lmsys/SGLang-EAGLE3-*.

Safetensors with `midlayer.*` (or `layers.0.*`, or either behind `model.`, which SGLang strips) and config.json with
architectures ["LlamaForCausalLMEagle3"]. `eagle_config.eagle_aux_hidden_state_layer_ids` names a tap by the layer whose
*output* it is, so Hugging Face's index is one more; without it SGLang and SpecForge alike take [1, n // 2 - 1, n - 4]
(SpecForge, `resolve_eagle_capture_layers`), which are hidden_states[2, n // 2, n - 3]. SpecForge's export drops
the embedding; its export for Hugging Face carries a copy.
"""

import re
from collections.abc import Mapping
from typing import Any

from draft_models.config import default_taps
from draft_models.errors import FormatError
from draft_models.formats.reading import Reading, layer_ids, llama_layer, refusals, whole_number

NAME = "SGLang (SpecForge)"
ARCHITECTURE = "LlamaForCausalLMEagle3"
KEY = "eagle_aux_hidden_state_layer_ids"
LEGACY = {"aux_norm_low": "fc_norm.0", "aux_norm_mid": "fc_norm.1", "aux_norm_high": "fc_norm.2"}


def recognises(config: Mapping[str, Any], names: frozenset[str]) -> bool:  # noqa: ARG001  a format may ask either
    """By the architecture."""
    return config.get("architectures") == [ARCHITECTURE]


def read(config: Mapping[str, Any], num_target_layers: int) -> Reading:
    """Raises FormatError: a value of the wrong type; ConfigError: no taps, and a target too small for the default."""
    eagle_config = config.get("eagle_config") or {}
    if not isinstance(eagle_config, dict):
        raise FormatError(f"config.json: eagle_config is {eagle_config!r}, not an object")
    layers = layer_ids(eagle_config.get(KEY), f"eagle_config.{KEY}")
    return Reading(
        layer=llama_layer(config),
        draft_vocab_size=whole_number(config, "draft_vocab_size"),
        taps=default_taps(num_target_layers) if layers is None else tuple(layer + 1 for layer in layers),
        refusals=refusals(config),
        warnings=_warnings(config, layers, num_target_layers),
    )


def sglang_name(name: str) -> str:
    """As our checkpoints write it; SGLang's loader knows the same synonyms."""
    name = name.removeprefix("model.")
    for legacy, new in LEGACY.items():
        name = name.replace(legacy, new)
    return re.sub(r"^layers\.0\.", "midlayer.", name)


def written_by_us(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of a draft that we trained, so that its taps are counted as we count; not of an import."""
    aerie = config.get("aerie")
    return isinstance(aerie, dict) and "imported" not in aerie


def _warnings(config: Mapping[str, Any], layers: tuple[int, ...] | None, num_target_layers: int) -> tuple[str, ...]:
    if written_by_us(config) or layers != (2, num_target_layers // 2, num_target_layers - 3):
        return ()
    lower = ",".join(map(str, layers))
    counted = f"{KEY} {list(layers)} are the usual taps as Hugging Face counts; SGLang reads them one layer later"
    return (f"{counted}. Compare with --taps {lower}",)
