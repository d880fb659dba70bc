"""What is known of a draft and its target without loading weights: config.json, tensor headers, d2t and t2d.

Owns the reading. Refuses to own the judgement.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PretrainedConfig

from draft_models.checkpoint import CONFIG, WEIGHTS, read_json
from draft_models.checks.finding import Finding, error
from draft_models.formats.sglang import sglang_name

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """A tensor's, as safetensors writes it: dtype "BF16", shape."""

    dtype: str
    shape: Shape


@dataclass(frozen=True)
class Facts:
    """Everything a check may ask."""

    found: dict[str, Any]
    """config.json."""
    target: PretrainedConfig
    headers: dict[str, Header]
    d2t: Tensor | None
    t2d: Tensor | None

    def number(self, name: str) -> int | None:
        """A whole number of config.json; None for anything else."""
        value = self.found.get(name)
        return value if type(value) is int else None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of every tensor, by the name that SGLang's loader gives it."""
        return {sglang_name(name): header.shape for name, header in self.headers.items()}

    @property
    def eagle_config(self) -> dict[str, Any]:
        """Empty if there is none."""
        value = self.found.get("eagle_config")
        return value if isinstance(value, dict) else {}


def read_facts(directory: Path, target: PretrainedConfig) -> tuple[Facts, list[Finding]]:
    """What can be read, and what is wrong with the weights' file.

    Raises:
        CheckpointError: config.json is missing or no JSON object: there is no draft.
    """
    found = read_json(directory / CONFIG)
    path = directory / WEIGHTS
    if not path.is_file():
        return Facts(found, target, {}, None, None), [_missing(directory)]
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            headers = {name: _header(file, name) for name in names}
            small = {name.removeprefix("model."): file.get_tensor(name) for name in names if _is_mapping(name)}
    except (OSError, SafetensorError) as reason:
        what = f"{WEIGHTS} cannot be read ({reason})"
        mend = "Copy or export the file again; it is truncated, or no safetensors file"
        return Facts(found, target, {}, None, None), [error("weights_broken", what, "SGLang does not start", mend)]
    return Facts(found, target, headers, small.get("d2t"), small.get("t2d")), []


def _missing(directory: Path) -> Finding:
    others = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".safetensors", ".pt"))
    what = f"there is no {WEIGHTS}" + (f", only {', '.join(others)}" if others else "")
    mend = "Convert it with `aerie-draft import`" if others else "Download or export the weights"
    return error("weights_missing", what, "`aerie serve` refuses the draft, and its tensors cannot be judged", mend)


def _is_mapping(name: str) -> bool:
    return name.removeprefix("model.") in ("d2t", "t2d")


def _header(file: Any, name: str) -> Header:  # noqa: ANN401  safetensors' file has no type
    part = file.get_slice(name)
    return Header(str(part.get_dtype()), tuple(part.get_shape()))
