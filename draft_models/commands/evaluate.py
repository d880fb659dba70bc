# ruff: noqa: T201  it talks to a terminal
"""Measure a draft: tau of trees by task and prompt length; for chains (topk 1) n-alpha too."""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from draft_models.checkpoint import WEIGHTS, load_draft, write_text_whole
from draft_models.commands.options import positive
from draft_models.commands.text import rates
from draft_models.config import require_supported
from draft_models.errors import ConfigError
from draft_models.evaluate import ALL, ALPHAS, Measured, Setting
from draft_models.evaluate import evaluate as measure
from draft_models.prompts import EvaluationPrompt, read_evaluation
from draft_models.provenance import file_sha256, provenance, relative
from draft_models.target import Target, load_tokenizer, target_config
from draft_models.tree import TreeShape
from draft_models.world import join


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft evaluate`."""
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, one file a task")
    parser.add_argument(
        "--tree", type=_tree, nargs="+", metavar="S/K/N", help="num_steps/eagle_topk/num_draft_tokens, several (3/4/8)"
    )
    parser.add_argument("--alphas", action="store_true", help=f"the chain {ALPHAS} too, for 0-alpha to 5-alpha")
    parser.add_argument("--limit", type=positive, metavar="N", help="prompts per file (all)")
    parser.add_argument("--max-tokens", type=positive, default=128, metavar="N", help="answers end here (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument(
        "--rule",
        choices=("target-draw", "rejection"),
        default="target-draw",
        help="how drafts are accepted when sampling, both exactly (target-draw); rejection draws a chain's drafts",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both models")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to decode (cuda if torch sees one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    settings, device = _settings(options), join(options.device).device
    config = target_config(options.target)
    require_supported(config)
    dtype = getattr(torch, options.dtype)
    draft = load_draft(options.draft, config.num_hidden_layers).to(device, dtype)
    target = Target.load(options.target, draft.config.taps, dtype).to(device)
    tokenizer = load_tokenizer(options.target)
    prompts = [prompt for path in options.prompts for prompt in read_evaluation(path)[: options.limit]]
    progress, rows = _Progress(len(prompts) * len(settings)), []
    for setting in settings:
        found = measure(target, draft, tokenizer, prompts, setting, progress).rows()
        rows += found
        _print_rows(found)
    if options.json:
        report = _origin(options, settings[0], prompts) | {"seconds": round(progress.seconds, 1), "rows": rows}
        write_text_whole(options.json, json.dumps(report, indent=2) + "\n")
    return 0


class _Progress:
    """How many decodings are done, where somebody watches."""

    def __init__(self, decodings: int) -> None:
        self.decodings, self.done, self.started = decodings, 0, time.monotonic()

    def __call__(self, _: Measured) -> None:
        self.done += 1
        if sys.stderr.isatty():
            print(f"\r{self.done}/{self.decodings} {self.seconds:.0f} s ", end="", file=sys.stderr)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def _settings(options: argparse.Namespace) -> list[Setting]:
    shapes = options.tree or ([] if options.alphas else [TreeShape.parse("3/4/8")])
    if options.alphas:
        shapes = [*shapes, ALPHAS]
    first = Setting(shapes[0], options.max_tokens, options.temperature, options.seed, options.rule)
    return [replace(first, shape=shape) for shape in dict.fromkeys(shapes)]


def _origin(options: argparse.Namespace, setting: Setting, prompts: list[EvaluationPrompt]) -> dict[str, Any]:
    return {
        "provenance": provenance(),
        "target": relative(options.target),
        "draft": relative(options.draft),
        "draft_sha256": file_sha256(options.draft / WEIGHTS),
        "prompts_sha256": {relative(path): file_sha256(path) for path in options.prompts},
        "setting": {
            "dtype": options.dtype,
            "prompts": len(prompts),
            "max_tokens": setting.max_tokens,
            "temperature": setting.temperature,
            "rule": setting.rule,
            "seed": setting.seed,
        },
    }


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"tree {rows[0]['tree']}")
    for row in rows:
        name = row["task"] if row["prompt_tokens"] == ALL else f"{row['prompt_tokens']} tokens"
        interval = "{:.2f}..{:.2f}".format(*row["tau_interval"]) if row.get("tau_interval") else ""
        passes = f"{row['prompts']} prompts, {row['verify_passes']} passes" if "prompts" in row else ""
        alphas = f"  n-alpha {rates(row['n_alpha'])}" if "n_alpha" in row else ""
        print(f"  {name:16} tau {row['tau']:.3f}  {interval:10}  {passes}{alphas}".rstrip())


def _tree(text: str) -> TreeShape:
    try:
        return TreeShape.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
