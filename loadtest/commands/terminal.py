# ruff: noqa: T201  it talks to a terminal
"""What every command shares with its terminal: progress on stderr, a key from the environment."""

import os
import sys

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def say(line: str) -> None:
    """A line of progress."""
    print(f"aerie-bench: {line}", file=sys.stderr, flush=True)


def api_key() -> str | None:
    """Of the endpoints (AERIE_API_KEY); None: they ask for none."""
    return os.environ.get("AERIE_API_KEY")
