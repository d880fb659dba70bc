# ruff: noqa: T201  it talks to a terminal
"""Record at which positions of the target's answers which drafts are right: the acceptance of every smaller tree."""

import argparse
import json
from pathlib import Path

from draft_models.acceptance import Acceptance
from draft_models.checkpoint import write_text_whole
from draft_models.commands.measured import Progress, add_measured, load, origin, tree
from draft_models.evaluate import Setting
from draft_models.record import FORMAT, Recorded
from draft_models.record import record as recordings
from draft_models.tree import TreeShape

WIDEST = TreeShape(6, 8, 64)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft record`."""
    add_measured(parser)
    parser.add_argument(
        "--tree", type=tree, default=WIDEST, metavar="S/K/N", help=f"the widest tree: all within it follow ({WIDEST})"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSONL, for `aerie-bench tune`")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    setting = Setting(options.tree, options.max_tokens, options.temperature, options.seed)
    measured = load(options)
    progress = Progress(len(measured.prompts))
    recorded = list(
        recordings(measured.target, measured.draft, measured.tokenizer, measured.prompts, setting, progress)
    )
    head = {"format": FORMAT, "widest": str(setting.shape)} | origin(options, setting, measured)
    lines = [head | {"seconds": round(progress.seconds, 1)}, *(one.line() for one in recorded)]
    write_text_whole(options.output, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    _print(options.output, recorded, setting.shape)
    return 0


def _print(output: Path, recorded: list[Recorded], widest: TreeShape) -> None:
    positions = sum(one.answer_tokens - 1 for one in recorded)
    print(f"{output}: {len(recorded)} prompts, {positions} positions, trees up to {widest}")
    for shape in (TreeShape.chain(widest.num_steps), widest):
        total = sum((one.acceptance(shape) for one in recorded), Acceptance())
        print(f"  {shape!s:8} tau {total.tau:.3f}  {total.verify_passes} passes")
