"""A request's life once it is valid: open the runtime's answer, copy it to the client, account for it, or end it well.

Owns the order of things and who is told what. Refuses to own the wire (sglang.py), requests' rules (routes.py) and
where a request may go (fleet.py).

Nothing is sent before the runtime has sent its first event, so an early failure keeps its real status. After that an
error is an SSE event and the stream ends without [DONE]. Whatever ends a request early, the runtime is told to stop.
A replica that cannot be reached before then is replaced by another; one that broke the connection is not: the request
itself may have ended it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.gateway import sglang
from service.gateway.admission import Ticket
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
from service.gateway.fleet import Fleet, Plan, Station
from service.gateway.guard import Guard
from service.gateway.keys import Key
from service.gateway.lifeline import Lifeline
from service.gateway.limits import Allowance
from service.gateway.member import Lease, Member
from service.gateway.metrics import Metrics
from service.gateway.policy import POOL_HEADER
from service.gateway.pool import Pool
from service.gateway.record import RequestRecord
from service.gateway.settings import Settings
from service.gateway.sse import EventSplitter, error_event

ATTEMPTS = 3
"""Replicas of a pool that a request is sent to at most."""
QUEUE_MARGIN_S = 1.0
"""The queue's own end of patience comes first: it knows when to come back."""
LAST_WORDS_S = 1.0
"""For the end of an answer that is complete, or for telling the client of an error."""

_LEAVES_WORK_BEHIND = (ClientGone, ShuttingDown, UpstreamTimeout, UpstreamProtocolError)
_COSTS_NOTHING = (Overloaded, UpstreamUnavailable, InvalidRequest)
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

_log = logging.getLogger("aerie.relay")


class Translation(Protocol):
    """What the client is told instead of a chat completion; what is accounted for stays the runtime's answer."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer that is not streamed."""

    def feed(self, chunk: dict[str, Any]) -> bytes:
        """The events for one of the runtime's."""

    def done(self) -> bytes:
        """The last events."""

    def fail(self, error: GatewayError) -> bytes:
        """The last events of a stream that broke."""

    def renamed(self, error: GatewayError) -> GatewayError:
        """The error of a request that was not answered."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A valid request as it goes upstream, and what the client wants to see of the answer.

    `rids` are the ids the runtime knows it by; `own_ids` says that it will mint further ones, told in the events.
    """

    path: str
    body: bytes
    rid: str
    rids: tuple[str, ...]
    own_ids: bool
    prompt_param: str
    stream: bool
    wants_usage: bool
    wants_details: bool
    key: Key
    estimate: int
    """Tokens it may use."""
    ticket: Ticket
    conversation: bytes | None
    plan: Plan
    translation: Translation | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every relay needs of the gateway."""

    settings: Settings
    fleet: Fleet
    guard: Guard
    drain: Drain
    metrics: Metrics


class Relay(Response):
    """The answer to one request: the work happens when it is sent."""

    def __init__(self, exchange: Exchange, record: RequestRecord, around: Surroundings) -> None:
        super().__init__()
        self._exchange = exchange
        self._record = record
        self._around = around
        self._lifeline = Lifeline()
        self._rids = set(exchange.rids)
        self._held = ExitStack()
        self._lease: Lease | None = None
        self._extra_headers: list[tuple[bytes, bytes]] = []
        self._started = False
        self._complete = False
        settings = around.settings
        self._runtime_silent = UpstreamTimeout(f"The runtime sent nothing for {settings.stall_timeout_s:g} s.")
        self._queue_silent = Overloaded("No capacity came free in time.", code="queue_timeout", retry_after_s=1)
        self._client_slow = ClientGone(f"The client read nothing for {settings.stall_timeout_s:g} s.")

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve the request.

        Raises:
            GatewayError: it failed before anything was sent.
        """
        around, exchange = self._around, self._exchange
        with (
            around.metrics.in_flight.track_inprogress(),
            self._counted(),
            around.guard.limiter.admit(exchange.key, exchange.estimate) as allowance,
            self._held,
        ):
            self._extra_headers = _raw(allowance.headers)
            try:
                await self._serve(receive, send)
            except GatewayError as error:
                await self._fail(error, send)
            except asyncio.CancelledError:  # the server gave up waiting for this request
                self._record.failure = ShuttingDown("The gateway ended before the answer did.")
                raise
            finally:
                self._settle(allowance)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (Overloaded, RateLimited) as error:
            self._around.metrics.refusals.labels(error.code).inc()
            raise

    def _settle(self, allowance: Allowance) -> None:
        """Charge what was used; nothing where the runtime did no work. What is not known stays at its estimate."""
        usage, failure = self._record.usage, self._record.failure
        if usage is not None:
            allowance.settle(usage.prompt_tokens + usage.completion_tokens)
        elif not self._started and (self._lease is None or isinstance(failure, _COSTS_NOTHING)):
            allowance.settle(0)

    async def _serve(self, receive: Receive, send: Send) -> None:
        with self._around.drain.guard(self._lifeline):
            async with self._lifeline, _watched(receive, self._lifeline):
                await self._follow_plan(send)

    async def _follow_plan(self, send: Send) -> None:
        """Serve it from the first pool of the plan that can."""
        decision, stations = self._exchange.plan.decision, self._exchange.plan.stations
        for station in stations:
            if station.config.kind is not decision.kind:
                decision = decision.failover()
                self._around.metrics.decisions.labels(decision.kind, decision.reason).inc()
            self._record.pool, self._record.reason = station.config.name, decision.reason
            try:
                await self._wait_in(station, send)
                break
            except UpstreamUnavailable:
                if self._started or station is stations[-1]:
                    raise

    async def _wait_in(self, station: Station, send: Send) -> None:
        """Serve it when its turn comes."""
        ticket, record = self._exchange.ticket, self._record
        ticket = replace(ticket, wait_s=max(0.0, ticket.wait_s - record.queued_s))
        station.open()
        self._lifeline.allow(ticket.wait_s + QUEUE_MARGIN_S, self._queue_silent)
        slot = station.admission.slot(ticket)
        try:
            async with slot:
                self._around.metrics.queue_time.labels(station.config.name).observe(slot.waited_s)
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
            self._lease = self._held.enter_context(pool.lease(member))
            self._lifeline.allow(limit_s, UpstreamTimeout(f"The runtime did not answer within {limit_s:g} s."))
            try:
                await self._copy(member, send)
                return
            except UpstreamUnavailable as error:
                if self._started:
                    raise
                self._leave(self._lease, error)
                tried.append(member)
                if len(tried) == ATTEMPTS or not pool.has_other_than(tried):
                    raise

    def _leave(self, lease: Lease, error: GatewayError) -> None:
        """The replica never had the request: nothing is left there, nothing to abort."""
        lease.failed(error)
        self._held.close()
        self._lease = None

    async def _copy(self, member: Member, send: Send) -> None:
        exchange, client = self._exchange, member.replica.client
        async with client.open(exchange.path, exchange.body, prompt_param=exchange.prompt_param) as answer:
            await (self._copy_stream(answer, send) if exchange.stream else self._copy_whole(answer, send))

    async def _fail(self, error: GatewayError, send: Send) -> None:
        if self._complete and self._started:  # what breaks after a whole answer is nobody's loss
            if self._exchange.stream:
                await self._last_words(b"", send)
            return
        self._record.failure = error
        if self._lease is not None:
            self._lease.failed(error)
        translation = self._exchange.translation
        if self._started and not isinstance(error, ClientGone):
            await self._last_words(translation.fail(error) if translation else error_event(error), send)
        if isinstance(error, _LEAVES_WORK_BEHIND):
            await self._abort()
        if not self._started and not isinstance(error, ClientGone):
            raise translation.renamed(error) if translation else error

    async def _abort(self) -> None:
        if self._lease is None:  # it never left the queue
            return
        aborts = self._around.metrics.aborts
        try:
            await self._lease.member.replica.client.abort(sorted(self._rids))
        except GatewayError as error:
            aborts.labels("failed").inc()
            _log.warning("abort failed", extra={"fields": {"rid": self._exchange.rid, "reason": error.message}})
        else:
            aborts.labels("accepted").inc()

    async def _last_words(self, words: bytes, send: Send) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await send({"type": "http.response.body", "body": words, "more_body": False})

    async def _copy_whole(self, answer: sglang.Answer, send: Send) -> None:
        document = await answer.document()
        self._account(document)
        body = orjson.dumps(self._for_client(document))
        length = str(len(body)).encode()
        await self._start(send, [(b"content-type", b"application/json"), (b"content-length", length)])
        self._complete = True
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _for_client(self, document: dict[str, Any]) -> dict[str, Any]:
        if self._exchange.translation is not None:
            return self._exchange.translation.whole(document)
        hidden = {"metadata"} if self._exchange.wants_details else {"metadata", "sglext"}
        return {key: value for key, value in document.items() if key not in hidden} | {"id": self._exchange.rid}

    async def _copy_stream(self, answer: sglang.Answer, send: Send) -> None:
        splitter = EventSplitter()
        async for data in answer.chunks():
            if self._complete:
                continue  # reads the end of the body, so that the connection can be used again
            await self._pass_on(splitter.feed(data), send)
        if not self._complete:
            raise UpstreamProtocolError("The runtime's stream ended before it was complete.")
        self._lifeline.allow(self._around.settings.stall_timeout_s, self._client_slow)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, events: list[bytes], send: Send) -> None:
        """Send what the client should see; what came before a bad event is sent before it raises."""
        seen: list[bytes] = []
        failure: GatewayError | None = None
        for event in events:
            try:
                seen.append(self._translated(event, self._read(event)))
            except GatewayError as error:
                failure = error
                break
        if data := b"".join(seen):
            await self._send_chunk(data, send)
        if failure is not None:
            raise failure

    async def _send_chunk(self, data: bytes, send: Send) -> None:
        stall_s = self._around.settings.stall_timeout_s
        self._lifeline.allow(stall_s, self._client_slow)
        if not self._started:
            await self._start(send, _STREAM_HEADERS)
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._lifeline.allow(LAST_WORDS_S if self._complete else stall_s, self._runtime_silent)

    async def _start(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        assert self._lease is not None, "what is passed on came from a replica"
        self._lease.answered()
        pool = f"{self._record.pool}; reason={self._record.reason}".encode()
        headers = [*headers, *self._extra_headers, (POOL_HEADER.encode(), pool)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    def _translated(self, event: bytes, seen: bytes) -> bytes:
        translation = self._exchange.translation
        if translation is None:
            return seen
        match sglang.kind_of(event):
            case sglang.Kind.CHUNK | sglang.Kind.SUMMARY:
                return translation.feed(sglang.event_document(event))
            case sglang.Kind.DONE:
                return translation.done()
        return seen

    def _read(self, event: bytes) -> bytes:
        """What the client sees of an event: nothing, or all of it."""
        match sglang.kind_of(event):
            case sglang.Kind.CHUNK:
                self._time_chunk()
                return self._under_our_id(event)
            case sglang.Kind.SUMMARY:
                return self._under_our_id(event) if self._read_summary(event) else b""
            case sglang.Kind.DONE:
                self._complete = True
            case sglang.Kind.ERROR:
                raise sglang.event_error(event, prompt_param=self._exchange.prompt_param)
            case sglang.Kind.COMMENT:
                pass
        return event

    def _read_summary(self, event: bytes) -> bool:
        """Account for usage or acceptance figures; whether the client asked for them."""
        document = sglang.event_document(event)
        self._account(document)
        if "sglext" in document:
            return self._exchange.wants_details
        return self._exchange.wants_usage

    def _account(self, document: dict[str, Any]) -> None:
        self._record.usage = sglang.usage_of(document) or self._record.usage
        self._record.speculation = sglang.speculation_of(document) or self._record.speculation

    def _time_chunk(self) -> None:
        gap_s = self._record.chunk(time.perf_counter())
        if gap_s is not None:
            self._around.metrics.inter_chunk.labels(self._exchange.path).observe(gap_s)

    def _under_our_id(self, event: bytes) -> bytes:
        if not self._exchange.own_ids:
            return event
        event, theirs = sglang.adopt_id(event, self._exchange.rid)
        if theirs is not None:
            self._rids.add(theirs)
        return event


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@asynccontextmanager
async def _watched(receive: Receive, lifeline: Lifeline) -> AsyncIterator[None]:
    """End the lifeline when the client leaves."""
    watch = asyncio.create_task(_wait_for_disconnect(receive, lifeline))
    try:
        yield
    finally:
        watch.cancel()


async def _wait_for_disconnect(receive: Receive, lifeline: Lifeline) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    lifeline.end(ClientGone("The client closed the connection."))
