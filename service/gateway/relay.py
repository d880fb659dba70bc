"""A request's life once it is valid: wait for its turn, find a replica, deliver its answer, or end it well.

Owns the order of things and who is told what. Refuses to own the wire (sglang.py), requests' rules (routes.py), where a
request may go (fleet.py) and what the client is sent of an answer (delivery.py).

Nothing is sent before the runtime has sent its first event, so an early failure keeps its real status. After that an
error is an SSE event and the stream ends without [DONE]. Whatever ends a request early, the runtime is told to stop.
A replica that cannot be reached before then, or whose own queue is full, is replaced by another; one that broke the
connection is not: the request itself may have ended it.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.gateway import tracing
from service.gateway.delivery import Delivery, RawHeaders
from service.gateway.drain import Drain
from service.gateway.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    ShuttingDown,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from service.gateway.exchange import Exchange
from service.gateway.fleet import Fleet, Station
from service.gateway.guard import Guard
from service.gateway.lifeline import Lifeline, Lifelines
from service.gateway.limits import Allowance
from service.gateway.member import Lease, Member
from service.gateway.metrics import Metrics
from service.gateway.policy import POOL_HEADER
from service.gateway.pool import Pool
from service.gateway.record import RequestRecord
from service.gateway.settings import Settings
from service.gateway.watchers import ANSWER_BYTES, Watchers

ATTEMPTS = 3
"""Replicas of a pool that a request is sent to at most."""
QUEUE_MARGIN_S = 1.0
"""The queue's own end of patience comes first: it knows when to come back."""

_LEAVES_WORK_BEHIND = (ClientGone, ShuttingDown, UpstreamTimeout, UpstreamProtocolError)
COSTS_NOTHING = (Overloaded, UpstreamUnavailable, InvalidRequest)
"""Ends of a request for which the runtime did no work."""

_POOL_HEADER = POOL_HEADER.encode()

_log = logging.getLogger("aerie.relay")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every relay needs of the gateway."""

    settings: Settings
    fleet: Fleet
    guard: Guard
    drain: Drain
    metrics: Metrics
    watchers: Watchers


class RefusalsCounted:
    """A context: what is refused inside for lack of room, or by a key's limit, is counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is not None and isinstance(error, Overloaded | RateLimited):
            self._metrics.refusals.labels(error.code).inc()


class Relay(Response):
    """The answer to one request: the work happens when it is sent. Of Starlette's it is one in name only."""

    background = None

    def __init__(self, exchange: Exchange, record: RequestRecord, around: Surroundings) -> None:
        self._exchange = exchange
        self._record = record
        self._around = around
        self._lifeline = Lifeline()
        self._lease: Lease | None = None
        self._extra_headers: RawHeaders = []
        stall_s = around.settings.stall_timeout_s
        self._delivery = Delivery(exchange, record, self._lifeline, around.metrics, stall_s)
        if around.watchers.wants(exchange):
            self._delivery.keep(ANSWER_BYTES)

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Serve the request.

        Raises:
            GatewayError: it failed before anything was sent.
        """
        around, exchange = self._around, self._exchange
        with (
            around.metrics.serving,
            RefusalsCounted(around.metrics),
            around.guard.limiter.admit(exchange.key, exchange.estimate) as allowance,
        ):
            await self._serve(allowance, scope["state"]["connection"].lifelines, send)
        if self._record.failure is None:
            around.watchers.finished(exchange, self._record, self._delivery.kept)

    async def _serve(self, allowance: Allowance, clients: Lifelines, send: Send) -> None:
        self._extra_headers = _raw(allowance.headers)
        try:
            with self._lifeline.among(self._around.drain.lifelines, clients):
                await self._follow_plan(send)
        except GatewayError as error:
            await self._fail(error, send)
        except asyncio.CancelledError:  # the server gave up waiting for this request
            self._record.failure = ShuttingDown("The gateway ended before the answer did.")
            raise
        finally:
            try:
                self._settle(allowance)
            finally:
                self._leave()

    def _settle(self, allowance: Allowance) -> None:
        """Charge what was used; nothing where the runtime did no work. What is not known stays at its estimate."""
        usage, failure = self._record.usage, self._record.failure
        if usage is not None:
            allowance.settle(usage.prompt_tokens + usage.completion_tokens)
        elif not self._delivery.started and (self._lease is None or isinstance(failure, COSTS_NOTHING)):
            allowance.settle(0)

    async def _follow_plan(self, send: Send) -> None:
        """Serve it from the first pool of the plan that can."""
        decision, stations = self._exchange.plan.decision, self._exchange.plan.stations
        for station in stations:
            if station.config.kind is not decision.kind:
                decision = decision.failover()
                self._around.metrics.decision(decision.kind, decision.reason).inc()
            self._record.pool, self._record.reason = station.config.name, decision.reason
            try:
                await self._wait_in(station, send)
                break
            except UpstreamUnavailable:
                if self._delivery.started or station is stations[-1]:
                    raise

    async def _wait_in(self, station: Station, send: Send) -> None:
        """Serve it when its turn comes."""
        ticket, record = self._exchange.ticket, self._record
        if record.queued_s:
            ticket = ticket._replace(wait_s=max(0.0, ticket.wait_s - record.queued_s))
        station.open()
        self._lifeline.allow(ticket.wait_s + QUEUE_MARGIN_S, _queue_silent)
        slot = station.admission.slot(ticket)
        try:
            async with slot:
                self._around.metrics.queued(station.config.name).observe(slot.waited_s)
                await self._try_replicas(station.pool, send)
        except Overloaded:
            if self._lease is None:  # it waited in vain: for a pool that is down, if that is why
                station.pool.require()
            raise
        finally:
            record.queued_s += slot.waited_s

    async def _try_replicas(self, pool: Pool, send: Send) -> None:
        exchange, limit_s = self._exchange, self._around.settings.response_timeout_s
        tried: list[Member] = []
        while True:
            member = pool.choose(exchange.conversation, exclude=tried)
            if tried:
                self._around.metrics.retries.labels(pool.name).inc()
            self._lease = pool.lease(member).begin()
            self._lifeline.allow(limit_s, self._runtime_silent)
            try:
                await self._exchange_with(member, send)
                return
            except (UpstreamUnavailable, Overloaded) as error:
                if self._delivery.started:
                    raise
                self._leave(error)
                tried.append(member)
                if len(tried) == ATTEMPTS or not pool.has_other_than(tried):
                    raise

    def _runtime_silent(self) -> GatewayError:
        return UpstreamTimeout(f"The runtime did not answer within {self._around.settings.response_timeout_s:g} s.")

    def _leave(self, error: GatewayError | None = None) -> None:
        """Nothing is left to do or to abort at the replica; `error` if that is why."""
        if self._lease is not None:
            usage = self._record.usage
            self._lease.end(error, generated=None if usage is None else usage.completion_tokens)
            self._lease = None

    async def _exchange_with(self, member: Member, send: Send) -> None:
        assert self._lease is not None, "what is asked is at a replica"
        exchange, client, stay = self._exchange, member.replica.client, self._lease.stay
        with tracing.attempt(self._record, member.url, exchange.path) as trace:
            async with client.open(exchange.path, exchange.body, trace, prompt_param=exchange.prompt_param) as answer:
                await self._delivery.copy(answer, send, self._begun, stay)

    def _begun(self) -> RawHeaders:
        assert self._lease is not None, "an answer comes from a replica"
        self._lease.answered()
        pool = f"{self._record.pool}; reason={self._record.reason}".encode()
        return [*self._extra_headers, (_POOL_HEADER, pool)]

    async def _fail(self, error: GatewayError, send: Send) -> None:
        delivery, translation = self._delivery, self._exchange.translation
        if delivery.complete and delivery.started:  # what breaks after a whole answer is nobody's loss
            try:
                await delivery.close(send)
            except TimeoutError:  # but this client has not got all of it
                self._record.failure = error
            return
        self._record.failure = error
        if self._lease is not None:
            self._lease.failed(error)
        if delivery.started and not isinstance(error, ClientGone):
            await delivery.break_off(error, send)
        if isinstance(error, _LEAVES_WORK_BEHIND):
            await self._abort(error.code)
        if not delivery.started and not isinstance(error, ClientGone):
            raise translation.renamed(error) if translation else error

    async def _abort(self, reason: str) -> None:
        if self._lease is None:  # it never left the queue
            return
        self._around.metrics.zombies.labels(reason).inc()
        aborts = self._around.metrics.aborts
        try:
            await self._lease.member.replica.client.abort(sorted(self._delivery.rids))
        except GatewayError as error:
            aborts.labels("failed").inc()
            _log.warning("abort failed", extra={"fields": {"rid": self._exchange.rid, "reason": error.message}})
        else:
            aborts.labels("accepted").inc()


def _queue_silent() -> GatewayError:
    return Overloaded("No capacity came free in time.", code="queue_timeout", retry_after_s=1)


def _raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
