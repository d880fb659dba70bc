"""Draw the curves of one or more runs, or of a study, as SVG."""

import argparse
from pathlib import Path

from draft_models.plot import draw


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft plot`."""
    parser.add_argument("sources", type=Path, nargs="+", metavar="DIR", help="runs (--out of train), or one study")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture, SVG")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    draw(options.sources, options.out)
    return 0
