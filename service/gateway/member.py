"""One replica in a pool and one request's stay there.

Owns what a request's end says about the replica. Refuses to own the breaker's rules (breaker.py), probing (replica.py)
and who is chosen (pool.py).
"""

import asyncio
from types import TracebackType
from typing import Self

from service.gateway.batches import Stay
from service.gateway.breaker import Breaker, Permit
from service.gateway.errors import (
    GatewayError,
    InvalidRequest,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
    unavailable,
)
from service.gateway.replica import Replica
from service.gateway.tasks import end

_BLAMES_REPLICA = (UpstreamUnavailable, UpstreamProtocolError, UpstreamTimeout)
"""Not UpstreamFailed: a 500 may be the request's doing, and one bad request sent again must not close a fleet."""


class Member:
    """A replica, probed from here to `close`."""

    def __init__(self, url: str, replica: Replica, breaker: Breaker) -> None:
        self.url = url
        self.replica = replica
        self.load = replica.load
        """Its requests, ours and others'."""
        self.breaker = breaker
        self.leaving = False
        self._watch = asyncio.create_task(replica.watch())

    @property
    def ready(self) -> bool:
        """Whether its last probe was good and it stays."""
        return self.replica.reason is None and not self.leaving

    @property
    def reason(self) -> str | None:
        """Why it takes no new request; None when it does."""
        if self.leaving:
            return "The replica is leaving."
        return self.replica.reason or self.breaker.reason

    async def close(self) -> None:
        """Stop probing and close every connection."""
        await end(self._watch)
        await self.replica.close()


class Lease:
    """A context in which one request is at a member. The first outcome told counts; untold, it says nothing.

    To be held until the runtime needs no further word of the request, an abort included: a member that leaves the pool
    is closed once its last lease is over.
    """

    stay: Stay
    """What it takes of the replica's time."""
    _permit: Permit

    def __init__(self, member: Member, *, question: bool = False) -> None:
        self.member = member
        self._question = question

    def answered(self) -> None:
        """The first byte of an answer is here: whatever follows, the replica serves."""
        self._permit.succeeded()

    def failed(self, error: GatewayError) -> None:
        """The request ended with this error: the replica's fault, its client's, or nobody's."""
        if isinstance(error, _BLAMES_REPLICA):
            self._permit.failed()
        elif isinstance(error, InvalidRequest):  # the runtime refused it: it is there and reads
            self._permit.succeeded()
        else:
            self._permit.dropped()

    def begin(self) -> Self:
        """The request is at the member.

        Raises:
            UpstreamUnavailable: since it was chosen, the member has stopped taking requests.
        """
        if (reason := self.member.reason) is not None:
            raise unavailable(reason)
        self._permit = self.member.breaker.enter()
        self.stay = self.member.replica.meter.enter()
        self._count(1)
        return self

    def end(self, error: BaseException | None = None, *, generated: int | None = None) -> None:
        """It no longer is; `error` if that is why, `generated` as many tokens, if that is known."""
        if generated is None:
            self.member.replica.meter.settle()
        else:
            self.stay.generated(generated)
        self._count(-1)
        if isinstance(error, GatewayError):
            self.failed(error)
        self._permit.dropped()

    def __enter__(self) -> Self:
        return self.begin()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.end(error)

    def _count(self, requests: int) -> None:
        if self._question:
            self.member.load.questions += requests
        else:
            self.member.load.ours += requests
