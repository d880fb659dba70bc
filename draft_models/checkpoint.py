"""Drafts on disk, in SGLang's format (docs/sglang.md): config.json and model.safetensors, whole or not at all.

Owns the directory's layout, the strict comparison of tensors with the configuration, and `write_whole`. Refuses to own
what the tensors mean, and the trainer's own state (trainer.py).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from draft_models.config import DraftConfig, sentences
from draft_models.errors import CheckpointError
from draft_models.model import DraftModel

ARCHITECTURE = "LlamaForCausalLMEagle3"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
COPIED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "vocab_size",
    "draft_vocab_size",
)


def save_draft(draft: DraftModel, directory: Path, aerie: dict[str, Any] | None = None) -> None:
    """Write a draft as SGLang reads it, bf16 weights; `aerie` is provenance (chat template hash, argv, data...).

    Raises:
        CheckpointError: the disk is full or not writable; what was there before is still there.
    """
    tensors = {
        name: tensor.detach().to(torch.bfloat16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in draft.state_dict().items()
    }
    text = json.dumps(sglang_config(draft.config, aerie or {}), indent=2) + "\n"
    write_whole(directory / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_whole(directory / CONFIG, lambda path: _write_text(path, text))


def sglang_config(config: DraftConfig, aerie: dict[str, Any]) -> dict[str, Any]:
    """config.json, with the taps converted to the layers that SGLang names."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": 1,
        "dtype": "bfloat16",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "target_hidden_size": config.hidden_size,
        **{name: getattr(config, name) for name in COPIED},
        "eagle_config": {
            "use_aux_hidden_state": True,
            "eagle_aux_hidden_state_layer_ids": config.sglang_layer_ids,
        },
        "aerie": {"num_target_layers": config.num_target_layers, **aerie},
    }


def load_draft(directory: Path, num_target_layers: int) -> DraftModel:
    """Read a draft in SGLang's format, in float32.

    Raises:
        CheckpointError: a file is missing or broken, or a tensor is missing, unknown or of the wrong shape: all of them
            in one message.
    """
    config = read_config(directory, num_target_layers)
    tensors = _read_tensors(directory / WEIGHTS)
    for name in ("d2t", "t2d"):
        if name not in tensors:
            raise CheckpointError(f"{directory / WEIGHTS}: tensor {name} is missing; SGLang would propose wrong tokens")
    if tensors["d2t"].shape != (config.draft_vocab_size,) or tensors["t2d"].shape != (config.vocab_size,):
        raise CheckpointError(f"{directory / WEIGHTS}: d2t or t2d does not fit the vocabularies of config.json")
    draft = DraftModel(config, tensors["d2t"], tensors["t2d"])
    findings = compare(_shapes(draft.state_dict()), _shapes(tensors))
    if findings:
        raise CheckpointError(f"{directory / WEIGHTS}: {'; '.join(findings)}")
    draft.load_state_dict(tensors)
    return draft


def read_config(directory: Path, num_target_layers: int) -> DraftConfig:
    """config.json as a `DraftConfig`, SGLang's layers converted to taps."""
    path = directory / CONFIG
    found = read_json(path)
    if found.get("architectures") != [ARCHITECTURE]:
        raise CheckpointError(f"{path}: architectures is {found.get('architectures')}, not ['{ARCHITECTURE}']")
    layers = (found.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    if layers is None:
        layers = [1, num_target_layers // 2 - 1, num_target_layers - 4]  # SGLang's default
    missing = [name for name in COPIED if name not in found]
    if missing:
        raise CheckpointError(f"{path}: {', '.join(missing)} missing")
    try:
        return DraftConfig(
            **{name: found[name] for name in COPIED},
            num_target_layers=num_target_layers,
            taps=tuple(layer + 1 for layer in layers),
        )
    except ValidationError as error:
        raise CheckpointError(f"{path}: {sentences(error)}") from error


def written_by_us(found: Mapping[str, Any]) -> bool:
    """Whether config.json is of a draft that we trained, so that its taps are counted as we count; not of an import."""
    aerie = found.get("aerie")
    return isinstance(aerie, dict) and "imported" not in aerie


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}; a draft directory has {CONFIG} and {WEIGHTS}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a JSON {type(found).__name__}, not an object")
    return found


def compare(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> list[str]:
    """Every difference between the tensors a configuration asks for and those that are there."""
    missing = [f"tensor {name} is missing" for name in sorted(expected.keys() - found.keys())]
    unknown = [f"tensor {name} is unknown" for name in sorted(found.keys() - expected.keys())]
    shapes = [
        f"tensor {name} is {list(found[name])}, not {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    return missing + unknown + shapes


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path` and move it into place: readers see the old file or the new.

    Raises:
        CheckpointError: it could not be written (a full disk); the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(f"{path} could not be written ({error}); what was there before is unchanged") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole`, of a text."""

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_whole(path, write)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
