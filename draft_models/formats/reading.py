"""What a format's module owes the import, and what all formats share: Llama's configuration and the flags we refuse.

Owns `Format`, `Reading` and the reasons why a flag stops an import. Refuses to own any one format.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import LlamaConfig, PretrainedConfig

from draft_models.config import DraftConfig, sentences
from draft_models.errors import FormatError

LAYER_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
)
_SERVE = "SGLang has it, Aerie's draft model (model.py) has not; a draft already in SGLang's format is served as it is"
REFUSED_FLAGS = {
    "norm_before_residual": "the residual is normed too, and SGLang has no counterpart: every proposal would be wrong",
    "norm_before_fc": f"the features are normed before fc; {_SERVE}",
    "fc_norm": f"each feature is normed before fc; {_SERVE}",
    "use_aux_norm": f"each feature is normed before fc; {_SERVE}",
    "norm_output": f"the normed output is fed back; {_SERVE}",
    "tie_word_embeddings": "lm_head is the embedding, so there is no reduced vocabulary; Aerie's drafts have their own",
}


@dataclass(frozen=True)
class Reading:
    """A published configuration in our terms."""

    layer: PretrainedConfig
    """The decoder layer's, rope as `rope_parameters`."""
    draft_vocab_size: int | None
    """None where the configuration does not say: then lm_head does."""
    taps: tuple[int, ...]
    """Indices into Hugging Face's hidden_states."""
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def draft_config(self, num_target_layers: int, positions: int = 0) -> DraftConfig:
        """The same as a `DraftConfig`, of so many positions at least.

        Raises:
            FormatError: it describes no draft of ours.
        """
        if self.draft_vocab_size is None:
            raise FormatError("config.json: no draft_vocab_size: it shares the target's head, and Aerie's has its own")
        layer = self.layer
        try:
            return DraftConfig(
                hidden_size=layer.hidden_size,
                intermediate_size=layer.intermediate_size,
                num_attention_heads=layer.num_attention_heads,
                num_key_value_heads=layer.num_key_value_heads,
                head_dim=layer.head_dim or layer.hidden_size // layer.num_attention_heads,
                rms_norm_eps=layer.rms_norm_eps,
                rope_parameters=dict(layer.rope_parameters),
                max_position_embeddings=max(layer.max_position_embeddings, positions),
                vocab_size=layer.vocab_size,
                draft_vocab_size=self.draft_vocab_size,
                num_target_layers=num_target_layers,
                taps=self.taps,
            )
        except ValidationError as error:
            raise FormatError(f"config.json: {sentences(error)}") from error


class Format(Protocol):
    """A module for one published format."""

    NAME: str

    def recognises(self, config: Mapping[str, Any], names: frozenset[str]) -> bool:
        """Whether config.json and the tensors' names are of this format."""

    def read(self, config: Mapping[str, Any], num_target_layers: int) -> Reading:
        """The configuration in our terms; raises FormatError or ConfigError."""

    def sglang_name(self, name: str) -> str:
        """A tensor's name in SGLang, the same one if the format has no other."""


def llama_layer(config: Mapping[str, Any]) -> PretrainedConfig:
    """A Llama layer's configuration with Transformers' defaults, as SGLang would read it too.

    Raises:
        FormatError: a value has the wrong type.
    """
    try:
        layer = LlamaConfig(**{name: config[name] for name in LAYER_KEYS if config.get(name) is not None})
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        raise FormatError(f"config.json describes no Llama layer: {' '.join(str(error).split())}") from error
    theta = (layer.rope_parameters or {}).get("rope_theta")
    if not isinstance(theta, (int, float)) or not 0 < theta < float("inf"):
        raise FormatError(f"config.json: rope_theta is {theta!r}, not a number above 0")
    return layer


def refusals(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Every flag of this configuration, or of its eagle_config, that has no counterpart."""
    flags = {**config, **_mapping(config.get("eagle_config"))}
    found = [f"{name}: {why}" for name, why in REFUSED_FLAGS.items() if flags.get(name)]
    if flags.get("use_aux_hidden_state") is False:
        found.append("use_aux_hidden_state is false: the draft reads one layer, as EAGLE-1 and EAGLE-2 do")
    if flags.get("hidden_act") not in (None, "silu"):
        found.append(f"hidden_act is {flags['hidden_act']!r}; SGLang's draft has silu only")
    return tuple(found)


def whole_number(config: Mapping[str, Any], name: str) -> int | None:
    """None if it is absent or null; raises FormatError for anything but a whole number."""
    found = config.get(name)
    if found is not None and type(found) is not int:
        raise FormatError(f"config.json: {name} is {found!r}, not a whole number")
    return found


def layer_ids(found: object, name: str) -> tuple[int, ...] | None:
    """A list of layers, None if there is none; raises FormatError for anything else."""
    if found is None:
        return None
    if not isinstance(found, list) or not found or not all(type(layer) is int for layer in found):
        raise FormatError(f"config.json: {name} is {found!r}, not a list of layers")
    return tuple(found)


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}
