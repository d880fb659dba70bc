# ruff: noqa: T201  it talks to a terminal
"""What commands that measure a draft by decoding share: their options, what these name, and where a report comes from.

Owns these. Refuses to own what is measured.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from draft_models.checkpoint import WEIGHTS, load_draft
from draft_models.commands.options import positive
from draft_models.config import require_supported
from draft_models.errors import ConfigError
from draft_models.evaluate import Setting
from draft_models.model import DraftModel
from draft_models.prompts import EvaluationPrompt, read_evaluation
from draft_models.provenance import file_sha256, provenance, relative
from draft_models.target import Target, load_tokenizer, target_config
from draft_models.tree import TreeShape
from draft_models.world import join


@dataclass(frozen=True)
class Measured:
    """What a command line names."""

    target: Target
    draft: DraftModel
    tokenizer: PreTrainedTokenizerBase
    prompts: list[EvaluationPrompt]


def add_measured(parser: argparse.ArgumentParser) -> None:
    """The models, what they are asked, and how they decode."""
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, one file a task")
    parser.add_argument("--limit", type=positive, metavar="N", help="prompts per file (all)")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="answers end here (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both models")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to decode (cuda if torch sees one)")
    parser.add_argument("--seed", type=int, default=0)


def load(options: argparse.Namespace) -> Measured:
    """Read it all.

    Raises:
        DraftError: one of them cannot be read, or they do not fit each other.
    """
    device, config = join(options.device).device, target_config(options.target)
    require_supported(config)
    dtype = getattr(torch, options.dtype)
    draft = load_draft(options.draft, config.num_hidden_layers).to(device, dtype)
    target = Target.load(options.target, draft.config.taps, dtype).to(device)
    prompts = [prompt for path in options.prompts for prompt in read_evaluation(path)[: options.limit]]
    return Measured(target, draft, load_tokenizer(options.target), prompts)


def origin(options: argparse.Namespace, setting: Setting, measured: Measured) -> dict[str, Any]:
    """Where a report comes from."""
    return {
        "provenance": provenance(),
        "target": relative(options.target),
        "draft": relative(options.draft),
        "draft_sha256": file_sha256(options.draft / WEIGHTS),
        "prompts_sha256": {relative(path): file_sha256(path) for path in options.prompts},
        "setting": {
            "dtype": options.dtype,
            "prompts": len(measured.prompts),
            "max_tokens": setting.max_tokens,
            "temperature": setting.temperature,
            "rule": setting.rule,
            "seed": setting.seed,
        },
    }


def tree(text: str) -> TreeShape:
    """`S/K/N`."""
    try:
        return TreeShape.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Progress:
    """How many decodings are done, where somebody watches."""

    def __init__(self, decodings: int) -> None:
        self.decodings, self.done, self.started = decodings, 0, time.monotonic()

    def __call__(self, _: object) -> None:
        """One more is done."""
        self.done += 1
        if sys.stderr.isatty():
            print(f"\r{self.done}/{self.decodings} {self.seconds:.0f} s ", end="", file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self.started
