# ruff: noqa: T201  it talks to a terminal
"""Measure a draft: tau of a tree by task; for a chain (topk 1) n-alpha too."""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from draft_models.checkpoint import load_draft, write_whole
from draft_models.commands.text import rates
from draft_models.data import read_prompts
from draft_models.errors import ConfigError
from draft_models.evaluate import Report, Setting
from draft_models.evaluate import evaluate as measure
from draft_models.target import Target, load_tokenizer, target_config
from draft_models.tree import TreeShape


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft evaluate`."""
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL, one file a task")
    parser.add_argument("--tree", type=_tree, default="3/4/8", help="num_steps/eagle_topk/num_draft_tokens (3/4/8)")
    parser.add_argument("--limit", type=int, metavar="N", help="prompts per file (all)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="answers end here (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    draft = load_draft(options.draft, target_config(options.target).num_hidden_layers)
    dtype = getattr(torch, options.dtype)
    target, tokenizer = Target.load(options.target, draft.config.taps, dtype), load_tokenizer(options.target)
    prompts = [prompt for path in options.prompts for prompt in read_prompts(path)[: options.limit]]
    setting = Setting(options.tree, options.max_tokens, options.temperature, options.seed)
    started = time.monotonic()

    def progress(done: int, _: object) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{len(prompts)} {time.monotonic() - started:.0f} s", end="", file=sys.stderr)

    report = measure(target, draft.to(dtype), tokenizer, prompts, setting, progress)
    _print_report(report)
    if options.json:
        record = {"argv": sys.argv[1:], "tree": str(setting.shape), "seconds": time.monotonic() - started}
        text = json.dumps(record | {"rows": report.rows()}, indent=2) + "\n"
        write_whole(options.json, lambda path: _write(path, text))
    return 0


def _print_report(report: Report) -> None:
    for row in report.rows():
        low_high = "{:.2f}..{:.2f}".format(*row["tau_interval"]) if "tau_interval" in row else ""
        alphas = f"  n-alpha {rates(row['n_alpha'])}" if "n_alpha" in row else ""
        passes = f"  {row['prompts']} prompts, {row['verify_passes']} passes" if "prompts" in row else ""
        print(f"{row['task']:12} tau {row['tau']:.3f}  {low_high}{passes}{alphas}")


def _tree(text: str) -> TreeShape:
    try:
        return TreeShape.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _write(path: Path, text: str) -> None:
    path.write_text(text)
