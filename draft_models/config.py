"""The draft's shape and the training recipe: frozen, strict, checked at start-up.

Owns `DraftConfig` (what the draft is), `TrainConfig` (how it is trained), and the one conversion between the two ways
of counting layers. Refuses to own weights, files and the command line.

Taps are kept as indices into Hugging Face's `hidden_states`: 0 is the embedding, k the output of layer k - 1 (counted
from 0), and the last one is normed: the feature EAGLE reads, for ablations only, since SGLang cannot capture it.
SGLang names a tap by the layer whose output it is: index - 1.
"""

from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from transformers import PretrainedConfig

from draft_models.errors import ConfigError

SUPPORTED_TARGETS = ("llama", "qwen2", "qwen3", "mistral")
SUPPORTED_ROPES = ("default", "linear", "llama3", "yarn")
"""Those whose angles depend on the position alone. Those of dynamic and longrope depend on the length read so far, so a
cached key would not be what reading it anew gives."""


class DraftConfig(BaseModel, frozen=True, extra="forbid"):
    """The architecture of section 3.1: everything but the weights.

    The draft shares the target's hidden size, heads, rope and vocabulary; `draft_vocab_size` is how many of the
    vocabulary's tokens it can propose, `num_target_layers` bounds the taps.
    """

    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    rms_norm_eps: float = Field(gt=0)
    rope_parameters: dict[str, Any]
    max_position_embeddings: int = Field(ge=1)
    vocab_size: int = Field(ge=2)
    draft_vocab_size: int = Field(ge=1)
    num_target_layers: int = Field(ge=2)
    taps: tuple[int, ...] = Field(min_length=1)

    @classmethod
    def from_target(cls, target: PretrainedConfig, draft_vocab_size: int, taps: tuple[int, ...] | None = None) -> Self:
        """The draft for a target: its sizes, and `default_taps` unless others are named.

        Raises:
            ConfigError: the target is not supported (`require_supported`), or the taps or the vocabulary do not fit it.
        """
        require_supported(target)
        layers, heads = target.num_hidden_layers, target.num_attention_heads
        try:
            return cls(
                hidden_size=target.hidden_size,
                intermediate_size=target.intermediate_size,
                num_attention_heads=heads,
                num_key_value_heads=getattr(target, "num_key_value_heads", None) or heads,
                head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
                rms_norm_eps=target.rms_norm_eps,
                rope_parameters=dict(target.rope_parameters),
                max_position_embeddings=target.max_position_embeddings,
                vocab_size=target.vocab_size,
                draft_vocab_size=draft_vocab_size,
                num_target_layers=layers,
                taps=default_taps(layers) if taps is None else taps,
            )
        except ValidationError as error:
            raise ConfigError(sentences(error)) from error

    @property
    def sglang_layer_ids(self) -> list[int]:
        """The taps as `eagle_aux_hidden_state_layer_ids` counts them."""
        return [tap - 1 for tap in self.taps]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads"
            )
        if fault := _rope_fault(self.rope_parameters):
            raise ValueError(fault)
        if self.draft_vocab_size > self.vocab_size:
            raise ValueError(f"draft_vocab_size {self.draft_vocab_size} exceeds the target's {self.vocab_size} tokens")
        if (
            list(self.taps) != sorted(set(self.taps))
            or not 1 <= self.taps[0] <= self.taps[-1] <= self.num_target_layers
        ):
            raise ValueError(
                f"taps {list(self.taps)} must rise and lie in 1..{self.num_target_layers}, "
                "as indices into hidden_states"
            )
        return self


class TrainConfig(BaseModel, frozen=True, extra="forbid"):
    """The recipe: training-time test of section 3.2, optimiser of section 4.

    A resumed run must have the same one: `Trainer` compares them field by field.
    """

    num_steps: int = Field(default=5, ge=1, le=16, description="S, the unrolled steps of the training-time test")
    position_decay: float = Field(default=0.8, gt=0, le=1, description="step s weighs position_decay ** s in the loss")
    position_survival: float = Field(
        default=0.8, gt=0, le=1, description="share of positions simulated on from each step to the next (unroll.py)"
    )
    feature_weight: float = Field(default=0.0, ge=0, description="the feature constraint that EAGLE-3 drops; ablations")
    learning_rate: float = Field(default=1e-3, gt=0)
    final_learning_rate: float = Field(default=0.05, ge=0, le=1, description="end of the cosine, times learning_rate")
    warmup_batches: int = Field(default=30, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=0.5, gt=0)
    batch_tokens: int = Field(
        default=1024, ge=16, description="padded tokens per batch, at most; a longer row is a batch of its own"
    )
    epochs: int = Field(default=6, ge=1)
    seed: int = 0
    compute_dtype: str = Field(default="bfloat16", pattern="^(bfloat16|float32)$")
    validate_every: int = Field(default=400, ge=1, description="batches between two measurements of held-out tau")
    patience: int = Field(
        default=0, ge=0, description="stop after this many measurements without a better tau; 0: never"
    )
    checkpoint_every: int = Field(default=100, ge=1, description="batches between two saved states")


def require_supported(target: PretrainedConfig) -> None:
    """Whether a draft can follow this target, and the reference decoder decode it exactly.

    Raises:
        ConfigError: it cannot; names the property that is in the way.
    """
    if target.model_type not in SUPPORTED_TARGETS:
        known = ", ".join(SUPPORTED_TARGETS)
        raise ConfigError(f"target: model_type {target.model_type!r} is not supported; supported: {known}")
    if fault := _rope_fault(target.rope_parameters):
        raise ConfigError(f"target: {fault}")
    window, context = getattr(target, "sliding_window", None), target.max_position_embeddings
    if window is not None and window < context:
        raise ConfigError(
            f"target: sliding_window {window} is shorter than its context of {context}, which is not supported; "
            f"with max_position_embeddings {window} in its config.json it can be used up to there"
        )


def default_taps(num_layers: int) -> tuple[int, ...]:
    """Low, middle and high, as SGLang chooses them: the inputs of layers 2, n // 2 and n - 3 (models/llama.py).

    Raises:
        ConfigError: a target of fewer than 7 layers has no such three; name its taps.
    """
    taps = (2, num_layers // 2, num_layers - 3)
    if not taps[0] < taps[1] < taps[2]:
        raise ConfigError(f"taps: a target of {num_layers} layers has no default taps; name them")
    return taps


def sentences(error: ValidationError) -> str:
    """What is wrong, as one line: `field: reason; field: reason`."""
    found = (("/".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors())
    return "; ".join(f"{field}: {reason}" if field else reason for field, reason in found)


def _rope_fault(rope: dict[str, Any]) -> str | None:
    """What the draft's rope tables cannot be, as part of a sentence; None if there is nothing."""
    if any(isinstance(value, dict) for value in rope.values()):
        return "rope parameters by layer type are not supported"
    if "mrope_section" in rope:
        return "multimodal rope (mrope_section) is not supported"
    if (kind := rope.get("rope_type", "default")) not in SUPPORTED_ROPES:
        return f"rope_type {kind!r} is not supported; supported: {', '.join(SUPPORTED_ROPES)}"
    if (share := rope.get("partial_rotary_factor", 1.0)) != 1:
        return f"partial rotary embedding (partial_rotary_factor {share}) is not supported"
    return None
