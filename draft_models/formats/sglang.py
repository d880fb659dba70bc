"""SGLang's own format, which SpecForge (`specforge/export/to_sglang.py`) and we write: lmsys/SGLang-EAGLE3-*.

Safetensors with `midlayer.*` (or `layers.0.*`, or either behind `model.`, which SGLang strips) and config.json with
architectures ["LlamaForCausalLMEagle3"]. `eagle_config.eagle_aux_hidden_state_layer_ids` names a tap by the layer whose
*output* it is, so Hugging Face's index is one more; without it SGLang and SpecForge alike take [1, n // 2 - 1, n - 4]
(SpecForge, `resolve_eagle_capture_layers`), which are hidden_states[2, n // 2, n - 3]. SpecForge's export drops
the embedding; its export for Hugging Face carries a copy.
"""

from collections.abc import Mapping
from typing import Any

from draft_models.checkpoint import ARCHITECTURE, written_by_us
from draft_models.config import default_taps
from draft_models.formats.reading import Reading, layer_ids, llama_layer, refusals, whole_number

NAME = "SGLang (SpecForge)"
KEY = "eagle_aux_hidden_state_layer_ids"


def recognises(config: Mapping[str, Any], names: frozenset[str]) -> bool:  # noqa: ARG001  a format may ask either
    """By the architecture."""
    return config.get("architectures") == [ARCHITECTURE]


def read(config: Mapping[str, Any], num_target_layers: int) -> Reading:
    """Raises FormatError: a value of the wrong type; ConfigError: no taps, and a target too small for the default."""
    eagle_config = config.get("eagle_config")
    layers = layer_ids(eagle_config.get(KEY), f"eagle_config.{KEY}") if isinstance(eagle_config, dict) else None
    return Reading(
        layer=llama_layer(config),
        draft_vocab_size=whole_number(config, "draft_vocab_size"),
        taps=default_taps(num_target_layers) if layers is None else tuple(layer + 1 for layer in layers),
        refusals=refusals(config),
        warnings=_warnings(config, layers, num_target_layers),
    )


def sglang_name(name: str) -> str:
    """As SGLang's loader reads it."""
    name = name.removeprefix("model.")
    return f"midlayer.{name.removeprefix('layers.0.')}" if name.startswith("layers.0.") else name


def _warnings(config: Mapping[str, Any], layers: tuple[int, ...] | None, num_target_layers: int) -> tuple[str, ...]:
    if written_by_us(config) or layers != (2, num_target_layers // 2, num_target_layers - 3):
        return ()
    lower = ",".join(map(str, layers))
    counted = f"{KEY} {list(layers)} are the usual taps as Hugging Face counts; SGLang reads them one layer later"
    return (f"{counted}. Compare with --taps {lower}",)
