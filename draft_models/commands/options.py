"""Types of options that several commands take."""

import argparse


def positive(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def taps(text: str) -> tuple[int, ...]:
    """Indices into hidden_states, `L,M,H`; whether they fit the target is `DraftConfig`'s to say."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write hidden_states indices, like 2,16,29") from error
