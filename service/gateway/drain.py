"""Shutting down without losing an accepted request's answer.

Owns whether the gateway drains; ends the requests that outlive the drain time. Refuses to own signals and the listener
(server.py).
"""

from service.gateway.errors import ShuttingDown
from service.gateway.lifeline import Lifelines


class Drain:
    """`draining` flips readiness; the end of `lifelines` is that of what still runs when the drain time is over."""

    def __init__(self) -> None:
        self.draining = False
        self.lifelines = Lifelines(lambda: ShuttingDown("The gateway is shutting down.", retry_after_s=1))

    def begin(self) -> None:
        """From here on /readyz answers 503."""
        self.draining = True
