"""What a loop asks, and what it hears: the words that open and closed loops share; and who is told of progress."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtest.prompts import Prompt
from loadtest.record import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has ended, and what it asked."""

    prompt: Prompt
    request: Request
    """In an open loop `sent_s` is when it was due."""
    late_s: float | None = None
    """How much later than due it was sent; None: it was due when it was sent."""


Say = Callable[[str], None]
"""Hears a line of progress."""
Ask = Callable[[Prompt], Awaitable[Request]]
Told = Callable[[Asked], None]
Follow = Callable[[Prompt, Request], Prompt | None]
"""What a user says next, once answered; None: nothing, the conversation is over."""


def ignored(_: Asked) -> None:
    """Nobody listens."""


def single_turn(_: Prompt, __: Request) -> None:
    """Every conversation ends with its first answer."""
