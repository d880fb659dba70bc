"""Shutting down without losing an accepted request's answer.

Owns whether the gateway drains and which requests run; ends those that outlive the drain time. Refuses to own signals
and the listener (server.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from service.gateway.errors import ShuttingDown
from service.gateway.lifeline import Lifeline


class Drain:
    """`draining` flips readiness; `expire` ends what still runs."""

    def __init__(self) -> None:
        self.draining = False
        self.expired = False
        self._running: set[Lifeline] = set()

    @contextmanager
    def guard(self, lifeline: Lifeline) -> Iterator[None]:
        """Let this request be ended when the drain time is over."""
        self._running.add(lifeline)
        try:
            if self.expired:
                self._end(lifeline)
            yield
        finally:
            self._running.discard(lifeline)

    def begin(self) -> None:
        """From here on /readyz answers 503."""
        self.draining = True

    def expire(self) -> None:
        """The drain time is over: every running request ends with an error now."""
        self.expired = True
        for lifeline in tuple(self._running):
            self._end(lifeline)

    @staticmethod
    def _end(lifeline: Lifeline) -> None:
        lifeline.end(ShuttingDown("The gateway is shutting down.", retry_after_s=1))
