"""Who looks at answered requests without their clients' noticing: the losslessness canary and the capture of prompts.

Owns what the relay calls, and their lives. Refuses to own what they do (losslessness.py, capture.py).
"""

from contextlib import AsyncExitStack
from typing import Self

from service.gateway.capture import Capture
from service.gateway.config import GatewayConfig
from service.gateway.exchange import Exchange
from service.gateway.fleet import Fleet
from service.gateway.losslessness import Canary
from service.gateway.metrics import Metrics
from service.gateway.record import RequestRecord
from service.gateway.tasks import running

ANSWER_BYTES = 256 * 2**10
"""A longer answer is not kept."""


class Watchers:
    """Both of them. A context: inside it they work, inside the fleet's."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self.canary = Canary(fleet, metrics)
        self.capture = Capture(fleet.config.capture, metrics)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as lives:
            await lives.enter_async_context(self.capture)
            await lives.enter_async_context(running(self.canary.run()))
            self._lives = lives.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lives.aclose()

    def adopt(self, config: GatewayConfig) -> None:
        """Watch by this from now on: nothing in a valid file can fail here."""
        self.canary.adopt(config.losslessness)
        self.capture.adopt(config.capture)

    def wants(self, exchange: Exchange) -> bool:
        """When a request begins: whether the bytes that its client is sent are to be kept, up to `ANSWER_BYTES`."""
        return self.canary.wants(exchange) or self.capture.wants(exchange)

    def finished(self, exchange: Exchange, record: RequestRecord, answer: bytes | None) -> None:
        """A generation request that ended well; `answer` is what was kept, None where nothing was, or too much."""
        if answer is not None:
            self.canary.offer(exchange, record, answer)
        self.capture.offer(exchange, record, answer)
