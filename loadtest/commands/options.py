"""Values and options that several commands take.

Owns how a word of the command line becomes a value. Refuses to own what a command does with it.
"""

import argparse
import math
from pathlib import Path

from loadtest.errors import PromptsError
from loadtest.prompts.synthetic import Lengths


def add_workload(parser: argparse.ArgumentParser, *, max_tokens: int, tasks: bool = False) -> None:
    """What is asked of which model, and how long it may take; with tasks, of several files of prompts."""
    add = parser.add_argument
    add("--max-tokens", type=positive, default=max_tokens, metavar="N", help=f"of an answer ({max_tokens})")
    if tasks:
        files = "JSON lines with `turns`, a file a task (the bundled ones)"
        add("--prompts", type=Path, nargs="+", default=(), metavar="FILE", help=files)
    else:
        add("--prompts", type=Path, metavar="FILE", help="JSON lines with `turns` (the bundled ones)")
    add("--model", metavar="NAME", help="(the first that is served)")
    limit = "nothing is sent after it (120)"
    add("--time-limit", type=positive, default=120, dest="time_limit_s", metavar="S", help=limit)
    add("--timeout", type=positive, default=120, dest="timeout_s", metavar="S", help="silence that fails (120)")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    return 0 if text == "0" else positive(text)


def number(text: str) -> float:
    """A finite number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value


def rate(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def rates(text: str) -> tuple[float, ...]:
    """Finite numbers above 0 with commas between, each once, ascending."""
    return tuple(sorted(set(map(rate, text.split(",")))))


def share(text: str) -> float:
    """A number from 0 to 1."""
    if number(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 1")
    return number(text)


def lengths(text: str) -> Lengths:
    """Tokens of a prompt and of its answer."""
    try:
        return Lengths.parse(text)
    except PromptsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def words(text: str) -> str:
    """A text that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("say what it is")
    return text.strip()


def at_least_two(text: str) -> int:
    """Rounds."""
    if positive(text) < 2:
        raise argparse.ArgumentTypeError("one round cannot tell noise: 2 at least")
    return int(text)


def batch_sizes(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between, each once, ascending."""
    return tuple(sorted(set(map(positive, text.split(",")))))
