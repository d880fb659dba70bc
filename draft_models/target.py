# ruff: noqa: N803, N806, N815  shape suffixes
"""The frozen target: its features for training, its cached decoding for evaluation.

The tapped hidden states feed the draft; the final (normed) hidden state times the head gives the distribution the draft
is judged by. Owns everything that touches the Hugging Face model; refuses to own any weight of the draft.

Shapes: B rows, T tokens, M tokens of one forward, C cached and current tokens, D hidden size, F tap features,
V vocabulary.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from draft_models.config import require_supported
from draft_models.data import Row
from draft_models.errors import TargetError, first_line

JUDGED_TOGETHER = {"cpu": 256, "cuda": 8192}
"""Positions whose logits over the whole vocabulary exist at a time."""
CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"


@dataclass(frozen=True)
class Features:
    """What the target makes of rows of tokens."""

    taps_BTF: Tensor
    final_BTD: Tensor
    """After the final norm."""
    likeliest_BT: Tensor
    """The target's greedy next token."""


class Target:
    """A frozen causal language model."""

    def __init__(self, model: Any, taps: tuple[int, ...], digest: str) -> None:  # noqa: ANN401  no typed interface
        self.model, self.taps, self.digest = model.eval().requires_grad_(requires_grad=False), taps, digest
        self.config: PretrainedConfig = model.config
        self.embed_VD: Tensor = model.get_input_embeddings().weight
        self.head_VD: Tensor = model.get_output_embeddings().weight
        self.norm_D: Tensor = model.model.norm.weight

    @classmethod
    def load(cls, directory: Path, taps: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> "Target":
        """From a directory in Hugging Face format.

        Raises:
            ConfigError: the model is of a kind that is not supported.
            TargetError: there is no model, or it cannot be read.
        """
        require_supported(target_config(directory))
        try:
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TargetError(f"{directory}: {first_line(error)}") from error
        return cls(model, taps, target_digest(directory))

    def to(self, device: torch.device) -> "Target":
        """Itself, on that device."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def features(self, ids_BT: Tensor, starts: Sequence[int] | None = None) -> Features:
        """Of rows padded on the right: what follows a row's end is padding, and causal attention never looks there.

        Args:
            ids_BT: the rows.
            starts: for each row, the first position whose greedy next token is wanted (0); 0 stands before it.
        """
        output = self.model.model(input_ids=ids_BT, output_hidden_states=True, use_cache=False)
        final_BTD = output.last_hidden_state
        likeliest_BT = torch.zeros_like(ids_BT)
        start_B = torch.tensor(starts or [0] * len(ids_BT), device=ids_BT.device)
        wanted_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) >= start_B[:, None]
        parts = final_BTD[wanted_BT].split(JUDGED_TOGETHER[ids_BT.device.type])
        likeliest_BT[wanted_BT] = torch.cat([self.logits(part_MD).max(-1).indices for part_MD in parts])
        return Features(self._tapped(output.hidden_states), final_BTD, likeliest_BT)

    @torch.inference_mode()
    def forward(self, ids_M: Tensor, position_M: Tensor, cache: DynamicCache, mask_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Decode on one row: final hidden states [M, D] and taps [M, F]; keys and values are appended to the cache."""
        output = self.model.model(
            input_ids=ids_M[None],
            position_ids=position_M[None],
            attention_mask=mask_MC[None, None],
            past_key_values=cache,
            output_hidden_states=True,
            use_cache=True,
        )
        return output.last_hidden_state[0], self._tapped(output.hidden_states)[0]

    def features_of(self, rows: Sequence[Row], length: int = 0) -> tuple[Tensor, Features]:
        """Ids, padded with 0 to `length` at least, and the features of these rows; what follows only in answers."""
        ids_BT = padded([row.ids for row in rows], length).to(self.embed_VD.device)
        return ids_BT, self.features(ids_BT, [row.response_start - 1 for row in rows])

    def logits(self, final_MD: Tensor) -> Tensor:
        """[M, V]."""
        logits_MV: Tensor = self.model.get_output_embeddings()(final_MD)
        return logits_MV

    def _tapped(self, hidden_states: Sequence[Tensor]) -> Tensor:
        return torch.cat([hidden_states[tap] for tap in self.taps], dim=-1)


def padded(rows: Sequence[Sequence[int]], length: int = 0) -> Tensor:
    """Rows of ids padded on the right with 0 to the longest, or to `length`: [B, T]."""
    ids_BT = torch.zeros(len(rows), max(length, *map(len, rows)), dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.frombuffer(array("q", ids), dtype=torch.long)
    return ids_BT


def target_config(directory: Path) -> PretrainedConfig:
    """Of the language model, where the target also sees or hears.

    Raises:
        TargetError: no config.json, a broken one, or an architecture that transformers does not know.
    """
    if not (directory / CONFIG).is_file():
        raise TargetError(f"{directory}: no {CONFIG}; a target is a directory in Hugging Face format")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise TargetError(f"{directory / CONFIG}: {first_line(error)}") from error
    return config


def target_digest(directory: Path) -> str:
    """Which target it is, wherever it lies: a hash of its configuration and of the headers and sizes of its weights."""
    total = hashlib.sha256()
    for path in sorted([*directory.glob("*config.json"), *directory.glob("*.safetensors")]):
        with path.open("rb") as file:
            size, head = path.stat().st_size, file.read(8)
            length = int.from_bytes(head, "little") if path.suffix == ".safetensors" else size
            total.update(f"{path.name}:{size}:".encode() + head + file.read(min(length, size)))
    return total.hexdigest()[:16]


def generation_config(directory: Path) -> GenerationConfig:
    """What the loaded model's is, without its weights: that of generation_config.json, or else of config.json.

    Raises:
        TargetError: one of them cannot be read.
    """
    if not (directory / GENERATION_CONFIG).is_file():
        return GenerationConfig.from_model_config(target_config(directory))
    try:
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TargetError(f"{directory / GENERATION_CONFIG}: {first_line(error)}") from error


def end_of_sequence(config: GenerationConfig) -> set[int]:
    """The ids that end an answer."""
    ids = config.eos_token_id
    if ids is None:
        return set()
    return set(ids) if isinstance(ids, list) else {ids}


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Raises TargetError: there is none, or it has no chat template."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TargetError(f"{directory}: no tokenizer: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise TargetError(f"{directory}: the tokenizer has no chat template")
    return tokenizer


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Stored with a draft: a draft trained under another template is a bad draft, and nothing else would say so."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
