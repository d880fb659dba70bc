"""Drafts on disk, in SGLang's format (docs/sglang.md): config.json and model.safetensors, whole or not at all.

Owns the directory's layout, the strict comparison of tensors with the configuration, and `write_all_whole`. Refuses to
own what config.json means (formats/sglang.py) and what tensors do, and the trainer's own state (trainer.py).
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from draft_models import vocab
from draft_models.config import DraftConfig
from draft_models.errors import CheckpointError, ConfigError, FormatError
from draft_models.formats import sglang
from draft_models.model import DraftModel

CONVERT = "convert it with `aerie-draft import`"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
OURS = {"num_target_layers", "taps"}
"""Of `DraftConfig`, what SGLang calls otherwise or does not ask."""


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
    write_all_whole(
        {
            directory / WEIGHTS: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
            directory / CONFIG: text_writer(text),
        }
    )


def sglang_config(config: DraftConfig, aerie: dict[str, Any]) -> dict[str, Any]:
    """config.json, with the taps converted to the layers that SGLang names."""
    return {
        "architectures": [sglang.ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": 1,
        "dtype": "bfloat16",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "target_hidden_size": config.hidden_size,
        **config.model_dump(exclude=OURS),
        "eagle_config": {
            "use_aux_hidden_state": True,
            sglang.KEY: config.sglang_layer_ids,
        },
        "aerie": {"num_target_layers": config.num_target_layers, **aerie},
    }


def load_draft(directory: Path, num_target_layers: int) -> DraftModel:
    """Read a draft in SGLang's format, in float32.

    Raises:
        CheckpointError: a file is missing or broken, config.json asks for what `DraftModel` has not, or tensors are
            missing, unknown, of the wrong shape, or d2t and t2d wrong: all of them in one message.
    """
    config = read_config(directory, num_target_layers)
    tensors = _read_tensors(directory / WEIGHTS)
    sizes = config.draft_vocab_size, config.vocab_size
    draft = DraftModel(config, torch.zeros(sizes[0], dtype=torch.long), torch.zeros(sizes[1], dtype=torch.bool))
    findings = compare(_shapes(draft.state_dict()), _shapes(tensors))
    if not findings and (fault := vocab.fault(tensors["d2t"], tensors["t2d"], *sizes)):
        findings = [fault[1]]
    if findings:
        raise CheckpointError(f"{directory / WEIGHTS}: {'; '.join(findings)}; {CONVERT}")
    draft.load_state_dict(tensors)
    return draft


def read_config(directory: Path, num_target_layers: int) -> DraftConfig:
    """config.json as SGLang reads it, its defaults included.

    Raises:
        CheckpointError: it is missing or broken, or asks for what `DraftModel` has not.
    """
    found = read_json(directory / CONFIG)
    if not sglang.recognises(found, frozenset()):
        what = f"architectures is {found.get('architectures')}, not ['{sglang.ARCHITECTURE}']"
        raise CheckpointError(f"{directory / CONFIG}: {what}; {CONVERT}")
    try:
        reading = sglang.read(found, num_target_layers)
        config = reading.draft_config(num_target_layers)
    except (FormatError, ConfigError) as error:
        raise CheckpointError(f"{directory}: {error}; correct it, or {CONVERT}") from error
    if reading.refusals:
        raise CheckpointError(f"{directory / CONFIG}: {'; '.join(reading.refusals)}; use another draft here")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}; a draft directory has {CONFIG} and {WEIGHTS}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a JSON {type(found).__name__}, not an object; copy or export the file again")
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


def write_whole(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """`write_all_whole`, of one file."""
    write_all_whole({path: write}, durable=durable)


def write_all_whole(writes: Mapping[Path, Callable[[Path], None]], *, durable: bool = True) -> None:
    """Call each with a temporary path beside its own, and move them into place once all of them are on the disk.

    Args:
        writes: what writes each file.
        durable: wait for the disk. What can be made again need not; then a power failure may leave a broken file.

    Raises:
        CheckpointError: one could not be written (a full disk); the old files are untouched.
    """
    mine = uuid4().hex[:8]  # other processes may be writing the same file
    temporaries = {path: path.with_name(f".{path.name}.{mine}.writing") for path in writes}
    try:
        for path, write in writes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporaries[path])
            if durable:
                with temporaries[path].open("rb") as file:
                    os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(
            f"{path} could not be written ({error}); what was there before is unchanged; make room, or write elsewhere"
        ) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink()


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole`, of a text."""
    write_whole(path, text_writer(text))


def text_writer(text: str) -> Callable[[Path], None]:
    """For `write_all_whole`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    return write


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}; copy or export the file again, or {CONVERT}") from error


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
