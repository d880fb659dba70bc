# ruff: noqa: T201  it talks to a terminal
"""Measure a draft: tau of trees by task and prompt length; for chains (topk 1) n-alpha too."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from draft_models.checkpoint import write_text_whole
from draft_models.commands.measured import Progress, add_measured, load, origin, tree
from draft_models.commands.text import rates
from draft_models.evaluate import ALL, ALPHAS, Setting
from draft_models.evaluate import evaluate as measure
from draft_models.tree import TreeShape


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft evaluate`."""
    add_measured(parser)
    parser.add_argument(
        "--tree", type=tree, nargs="+", metavar="S/K/N", help="num_steps/eagle_topk/num_draft_tokens, several (3/4/8)"
    )
    parser.add_argument("--alphas", action="store_true", help=f"the chain {ALPHAS} too, for 0-alpha to 5-alpha")
    parser.add_argument(
        "--rule",
        choices=("target-draw", "rejection"),
        default="target-draw",
        help="how drafts are accepted when sampling, both exactly (target-draw); rejection draws a chain's drafts",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    settings = _settings(options)
    measured = load(options)
    progress, rows = Progress(len(measured.prompts) * len(settings)), []
    for setting in settings:
        found = measure(measured.target, measured.draft, measured.tokenizer, measured.prompts, setting, progress).rows()
        rows += found
        _print_rows(found)
    if options.json:
        report = origin(options, settings[0], measured) | {"seconds": round(progress.seconds, 1), "rows": rows}
        write_text_whole(options.json, json.dumps(report, indent=2) + "\n")
    return 0


def _settings(options: argparse.Namespace) -> list[Setting]:
    shapes = options.tree or ([] if options.alphas else [TreeShape.parse("3/4/8")])
    if options.alphas:
        shapes = [*shapes, ALPHAS]
    first = Setting(shapes[0], options.max_tokens, options.temperature, options.seed, options.rule)
    return [replace(first, shape=shape) for shape in dict.fromkeys(shapes)]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"tree {rows[0]['tree']}")
    for row in rows:
        name = row["task"] if row["prompt_tokens"] == ALL else f"{row['prompt_tokens']} tokens"
        interval = "{:.2f}..{:.2f}".format(*row["tau_interval"]) if row.get("tau_interval") else ""
        passes = f"{row['prompts']} prompts, {row['verify_passes']} passes" if "prompts" in row else ""
        alphas = f"  n-alpha {rates(row['n_alpha'])}" if "n_alpha" in row else ""
        print(f"  {name:16} tau {row['tau']:.3f}  {interval:10}  {passes}{alphas}".rstrip())
