"""A published draft's directory: config.json and its weights, safetensors or pickled, in one file or in shards.

Owns the reading of files that other people wrote: nothing in them is executed (`weights_only`), and each thing that can
be wrong is one CheckpointError. Refuses to own what names and numbers mean (the formats' modules).
"""

import pickle
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from draft_models.checkpoint import CONFIG, WEIGHTS, read_json
from draft_models.errors import CheckpointError, first_line

PICKLE = "pytorch_model.bin"
UNPICKLING = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
)
"""What `torch.load` was seen to raise for broken files."""
EMBEDDINGS = tuple(
    f"{prefix}embed_tokens.weight"
    for prefix in ("model.", "", "model.language_model.", "language_model.model.", "language_model.")
)


@dataclass(frozen=True)
class Source:
    """What a published draft's directory holds, as it is."""

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[str, ...]
    """The weight files that were read."""


def read_source(directory: Path) -> Source:
    """Raises CheckpointError: a file is missing, truncated, not what its name says, or holds more than tensors."""
    config = read_json(directory / CONFIG)
    names = _weight_files(directory)
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = directory / name
        tensors |= _unpickled(path) if path.suffix == ".bin" else _safetensors(path)
    return Source(directory, config, tensors, names)


def read_embedding(directory: Path) -> Tensor | None:
    """The target's token embedding, [V, D]; None where the directory has no safetensors, or none under a known name."""
    if not any((directory / name).exists() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
        return None
    for name in _weight_files(directory):
        found = _safetensors(directory / name, EMBEDDINGS)
        if found:
            return next(iter(found.values()))
    return None


def _weight_files(directory: Path) -> tuple[str, ...]:
    for name in (WEIGHTS, PICKLE):
        if (directory / name).exists():
            return (name,)
        index = directory / f"{name}.index.json"
        if index.exists():
            return _shards(index)
    raise CheckpointError(f"{directory}: neither {WEIGHTS} nor {PICKLE}, in one file or in shards")


def _shards(index: Path) -> tuple[str, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(name) for name in names.values()):
        raise CheckpointError(f"{index}: weight_map has to map tensors to files beside it")
    return tuple(sorted(set(names.values())))


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and Path(name).suffix in (".safetensors", ".bin")


def _safetensors(path: Path, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if wanted is None else set(wanted) & set(file.keys())
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: what cannot be read is an error anyway
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UNPICKLING as error:
        raise CheckpointError(f"{path}: no PyTorch weights ({first_line(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CheckpointError(f"{path}: not a mapping of names to tensors, as `torch.save(model.state_dict())` writes")
    return {str(name): tensor for name, tensor in found.items()}
