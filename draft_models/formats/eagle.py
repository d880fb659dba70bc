"""EAGLE's own drafts (SafeAILab/EAGLE, `eagle/model/cnets.py`, `eagle/traineagle3`): yuhuili/EAGLE3-*.

`pytorch_model.bin` in half precision, tensors named as in SGLang (`midlayer.*`, `fc`, `norm`, `lm_head`, `d2t`, `t2d`),
and a Llama config.json with `draft_vocab_size`. There is no key for the taps: every target captures the inputs of
layers 2, n // 2 and n - 3 (`modeling_llama_kv.py`), which are Hugging Face's hidden_states[2, n // 2, n - 3].
`num_hidden_layers` says nothing: there is one `midlayer`, whatever it is. A draft of the full vocabulary has no d2t.
"""

from collections.abc import Mapping
from typing import Any

from draft_models.config import default_taps
from draft_models.formats.reading import Reading, llama_layer, refusals, whole_number

NAME = "EAGLE"


def recognises(config: Mapping[str, Any], names: frozenset[str]) -> bool:  # noqa: ARG001  a format may ask either
    """By its tensors: nothing in config.json tells it from a Llama model."""
    return any(name.startswith("midlayer.") for name in names)


def read(config: Mapping[str, Any], num_target_layers: int) -> Reading:
    """Raises FormatError: a value of the wrong type; ConfigError: a target too small for EAGLE's taps."""
    return Reading(
        layer=llama_layer(config),
        draft_vocab_size=whole_number(config, "draft_vocab_size"),
        taps=default_taps(num_target_layers),
        refusals=refusals(config),
    )


def sglang_name(name: str) -> str:
    """The same."""
    return name


def is_eagle_1(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """A draft of EAGLE-1 or EAGLE-2, by its tensors under SGLang's names: fc reads an embedding and one feature."""
    fc = shapes.get("fc.weight", ())
    return len(fc) == 2 and fc[1] == 2 * fc[0] and "midlayer.hidden_norm.weight" not in shapes
