"""A model's geometry: what a pass reads and computes, and what a request keeps in memory.

Owns the counting of parameters, bytes and operations, from a Hugging Face config.json or a preset (`models.yaml`).
Refuses to own how fast a machine does them (roofline.py). Dense and mixture-of-experts decoders with grouped-query
attention; norms, biases and rotary tables are left out (below 0.1% of the parameters). Multi-head latent attention and
state-space layers are refused: their caches are of another shape.
"""

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import PlanError

EAGLE3_DRAFT_VOCAB = 32000
"""Of the paper's drafts (SafeAILab/EAGLE); a draft's own config.json overrules it."""
_OTHER_CACHES = ("kv_lora_rank", "ssm_cfg", "mamba_d_state", "layers_block_type")
_BYTES = {"bf16": 2, "fp8": 1}


class _Config(BaseModel):
    """What is read of a config.json; everything else in it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int | None = Field(None, ge=1)
    head_dim: int | None = Field(None, ge=1)
    intermediate_size: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    tie_word_embeddings: bool = False
    num_experts: int = Field(0, ge=0, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: int = Field(0, ge=0)
    moe_intermediate_size: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Geometry:
    """Counts are of parameters unless a name says otherwise."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    attention_in: int
    """Width of what the attention reads: the hidden size, twice that in an EAGLE-3 draft."""
    intermediate: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    weight_bytes: int = 2
    """Of one parameter."""

    @classmethod
    def of(cls, config: _Config, name: str, precision: str = "bf16") -> Self:
        """From a config.json."""
        heads = config.num_attention_heads
        return cls(
            name=name,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_dim=config.head_dim or config.hidden_size // heads,
            vocab=config.vocab_size,
            attention_in=config.hidden_size,
            intermediate=(config.num_experts and config.moe_intermediate_size) or config.intermediate_size,
            tied=config.tie_word_embeddings,
            experts=config.num_experts,
            experts_per_token=config.num_experts_per_tok,
            weight_bytes=_BYTES[precision],
        )

    @cache  # noqa: B019  a few models, each asked for thousands of times by a fit
    def eagle3_draft(self, vocab: int = EAGLE3_DRAFT_VOCAB) -> "Geometry":
        """One decoder layer that reads embedding and feature side by side, and a head over the draft vocabulary."""
        mlp = self.intermediate * max(self.experts_per_token, 1)
        return replace(
            self, name=f"{self.name} draft", layers=1, vocab=vocab, attention_in=2 * self.hidden, intermediate=mlp,
            tied=False, experts=0, experts_per_token=0, weight_bytes=2,
        )  # fmt: skip

    @cached_property
    def head(self) -> int:
        """The output head."""
        return self.hidden * self.vocab

    @cached_property
    def attention(self) -> int:
        """Of one layer: queries, keys and values, and the way back."""
        return self.head_dim * (self.attention_in * (self.heads + 2 * self.kv_heads) + self.heads * self.hidden)

    @cached_property
    def mlp(self) -> int:
        """One expert of one layer, or the layer's only one."""
        return 3 * self.hidden * self.intermediate

    @cached_property
    def parameters(self) -> int:
        """All of them, the input embedding included."""
        return self.layers * (self.attention + max(self.experts, 1) * self.mlp) + self.head * (1 if self.tied else 2)

    @cached_property
    def active(self) -> int:
        """Those that a token meets; the input embedding is a look-up."""
        return self.layers * (self.attention + max(self.experts_per_token, 1) * self.mlp) + self.head

    def bytes_read(self, tokens: float) -> float:
        """Weights that a pass over so many tokens reads; experts as if each token chose its own at random."""
        touched = 1.0
        if self.experts:
            touched = self.experts * (1 - (1 - self.experts_per_token / self.experts) ** tokens)
        return self.weight_bytes * (self.layers * (self.attention + touched * self.mlp) + self.head)

    @cached_property
    def kv_bytes(self) -> int:
        """Of one token in one request's cache, in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def flops(self, tokens: float, context: float) -> float:
        """Of a pass over so many tokens that each look back at `context` others."""
        return tokens * (2 * self.active + 4 * self.layers * self.heads * self.head_dim * context)


def presets() -> dict[str, Geometry]:
    """The named models, in 16 bits."""
    return {name: Geometry.of(_Config.model_validate(entry["config"]), name) for name, entry in _entries().items()}


def public_parameter_counts() -> dict[str, int]:
    """What the hub states for each preset."""
    return {name: entry["parameters"] for name, entry in _entries().items()}


def read(model: str, precision: str = "bf16") -> Geometry:
    """A preset by name, or a config.json (or the directory it is in).

    Raises:
        PlanError: neither; or a model whose cache is of another shape.
    """
    entry = _entries().get(model.lower())
    if entry:
        return Geometry.of(_Config.model_validate(entry["config"]), model.lower(), precision)
    path = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
    config = _decoder(path)
    other = next((key for key in _OTHER_CACHES if config.get(key)), None)
    if other:
        raise PlanError(f"{path}: a model with {other} keeps another cache than this plan can count")
    try:
        return Geometry.of(_Config.model_validate(config), path.resolve().parent.name, precision)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PlanError(
            f"{path}: not a decoder's config.json ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        ) from error


def draft_vocab(path: str) -> int:
    """The draft vocabulary of an EAGLE-3 draft, from its config.json (or the directory it is in).

    Raises:
        PlanError: there is none.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    vocab = _json(file).get("draft_vocab_size")
    if not isinstance(vocab, int) or vocab < 1:
        raise PlanError(f"{file}: no draft_vocab_size: not an EAGLE-3 draft")
    return vocab


def _decoder(path: Path) -> dict[str, object]:
    """The part of a config.json that speaks of the decoder: a multimodal model's is inside."""
    config = _json(path)
    decoder = config.get("text_config") or config
    if not isinstance(decoder, dict):
        raise PlanError(f"{path}: not a decoder's config.json (text_config: not an object)")
    return decoder


def _json(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}; give a config.json, or one of {', '.join(_entries())}") from error
    except ValueError as error:
        raise PlanError(f"{path}: not JSON") from error
    if not isinstance(config, dict):
        raise PlanError(f"{path}: not a config.json")
    return config


def _entries() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("models.yaml").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return entries
