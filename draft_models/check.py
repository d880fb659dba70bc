"""`aerie-draft check TARGET DRAFT`: what SGLang would not say about a draft (docs/sglang.md, "silent failures").

Reads config.json, the headers of model.safetensors and the two small vocabulary tensors: no weights in memory.
Every finding says what would happen in production and how to mend it. Owns the judgement; refuses to repair.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig

from draft_models import vocab
from draft_models.checkpoint import ARCHITECTURE, CONFIG, WEIGHTS, compare, read_config
from draft_models.config import DraftConfig
from draft_models.errors import CheckpointError
from draft_models.model import DraftModel


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong."""

    level: str
    """`error`: the draft does not work as it is. `warning`: it works, and worse than it could."""
    what: str
    consequence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}. {self.consequence}. {self.mend}."


def check(target: PretrainedConfig, template_sha256: str | None, directory: Path) -> list[Finding]:
    """Everything that can be found without weights.

    Raises:
        CheckpointError: the directory holds no draft at all.
    """
    try:
        found: dict[str, Any] = json.loads((directory / CONFIG).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{directory / CONFIG}: {error}") from error
    findings = [*_kind(found), *_fit(found, target), *_template(found, template_sha256)]
    try:
        config = read_config(directory, target.num_hidden_layers)
    except CheckpointError as error:
        again = "Write the draft again with `aerie-draft train`"
        return [*findings, Finding("error", str(error), "SGLang cannot build this draft, or builds another one", again)]
    return [*findings, *_tensors(config, directory / WEIGHTS)]


def _kind(found: dict[str, Any]) -> list[Finding]:
    findings = []
    if found.get("architectures") != [ARCHITECTURE]:
        findings.append(
            Finding(
                "error",
                f"architectures is {found.get('architectures')}",
                "SGLang would load another architecture; under EAGLE instead of EAGLE3 it accepts nothing, silently",
                f'Set it to ["{ARCHITECTURE}"] if this is an EAGLE-3 draft',
            )
        )
    if found.get("norm_before_residual"):
        findings.append(
            Finding(
                "error",
                "the draft was trained with norm_before_residual",
                "SGLang adds the residual before the norm, so its proposals would be wrong",
                "Train it without",
            )
        )
    return findings


def _fit(found: dict[str, Any], target: PretrainedConfig) -> list[Finding]:
    findings = []
    for name in ("hidden_size", "vocab_size"):
        if found.get(name) != getattr(target, name):
            what = f"{name} is {found.get(name)}, the target's is {getattr(target, name)}"
            wrong = "It was trained for another target: start-up fails, or nothing is accepted"
            findings.append(Finding("error", what, wrong, "Use the draft of this target"))
    positions = found.get("max_position_embeddings") or 0
    if positions < target.max_position_embeddings:
        findings.append(
            Finding(
                "error",
                f"max_position_embeddings is {positions}, the target's context {target.max_position_embeddings}",
                "SGLang refuses to start, and where that is overridden acceptance falls beyond the draft's positions",
                "Set it to the target's; acceptance at that length has to be measured",
            )
        )
    return findings


def _template(found: dict[str, Any], template_sha256: str | None) -> list[Finding]:
    trained = (found.get("aerie") or {}).get("chat_template_sha256")
    if trained is None or template_sha256 is None:
        what, wrong = "no chat template hash to compare", "A draft trained under another template is a bad draft"
        return [Finding("warning", what, wrong, "Measure it with `aerie-draft evaluate`")]
    if trained == template_sha256:
        return []
    what = "the chat template is not the one the draft was trained under"
    return [
        Finding("warning", what, "Acceptance falls, silently", "Serve that template, or train again under this one")
    ]


def _tensors(config: DraftConfig, path: Path) -> list[Finding]:
    with torch.device("meta"):
        blank = torch.empty(config.draft_vocab_size), torch.empty(config.vocab_size)
        expected = {name: tensor.shape for name, tensor in DraftModel(config, *blank).state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
            small = {name: file.get_tensor(name) for name in ("d2t", "t2d") if name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    skipped = "SGLang skips what it does not know and leaves what is missing at random, silently"
    again = "Export the draft again, and compare its configuration"
    findings = [Finding("error", what, skipped, again) for what in compare(expected, shapes)]
    if not findings and not torch.equal(small["d2t"], vocab.offsets(small["t2d"].bool())):
        what = "d2t and t2d do not describe the same tokens (d2t is an offset: target id = i + d2t[i])"
        findings.append(Finding("error", what, "SGLang would propose wrong tokens", "Rebuild d2t from t2d"))
    return findings
