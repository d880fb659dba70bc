"""Fetch a public set of prompts, checked against its SHA-256, as JSON lines for the other commands."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from loadtest import files
from loadtest.commands.options import positive, words
from loadtest.commands.terminal import say
from loadtest.prompts import datasets


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench prompts`."""
    add, known = parser.add_argument, datasets.catalog()
    parser.epilog = "; ".join(f"{name}: {dataset.licence}" for name, dataset in known.items())
    add("name", choices=known, metavar="NAME", help=", ".join(known))
    add("--output", type=Path, required=True, metavar="FILE", help="the JSON lines")
    add("--count", type=positive, metavar="N", help="the first N of the set (all)")
    add("--source", type=words, metavar="URL|FILE", help="a copy of the set's file, held against the same SHA-256")


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:  # noqa: ARG001 - as every command
    """Exit status 0, or a BenchError."""
    files.require_writable(options.output)
    dataset = datasets.catalog()[options.name]
    lines = datasets.prompt_lines(options.name, dataset, options.source, options.count)
    files.write("".join(line.decode() + "\n" for line in lines), options.output)
    say(f"{options.output}: {len(lines)} prompts of {options.name} (licence: {dataset.licence})")
    return 0
