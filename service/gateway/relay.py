"""A request's life once it is valid: open the runtime's answer, copy it to the client, account for it, or end it well.

Owns the order of things and who is told what. Refuses to own the wire (sglang.py) and requests' rules (routes.py).

Nothing is sent before the runtime has sent its first event, so an early failure keeps its real status. After that an
error is an SSE event and the stream ends without [DONE]. Whatever ends a request early, the runtime is told to stop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.gateway import sglang
from service.gateway.drain import Drain
from service.gateway.errors import ClientGone, GatewayError, ShuttingDown, UpstreamProtocolError, UpstreamTimeout
from service.gateway.lifeline import Lifeline
from service.gateway.metrics import Metrics
from service.gateway.record import RequestRecord
from service.gateway.replica import Replica
from service.gateway.settings import Settings
from service.gateway.sse import EventSplitter, error_event

LAST_WORDS_S = 1.0
"""For the end of an answer that is complete, or for telling the client of an error."""

_LEAVES_WORK_BEHIND = (ClientGone, ShuttingDown, UpstreamTimeout, UpstreamProtocolError)
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

_log = logging.getLogger("aerie.relay")


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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every relay needs of the gateway."""

    settings: Settings
    replica: Replica
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
        self._started = False
        self._complete = False
        settings = around.settings
        self._runtime_silent = UpstreamTimeout(f"The runtime sent nothing for {settings.stall_timeout_s:g} s.")
        self._client_slow = ClientGone(f"The client read nothing for {settings.stall_timeout_s:g} s.")

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Serve the request.

        Raises:
            GatewayError: it failed before anything was sent.
        """
        with self._around.metrics.in_flight.track_inprogress():
            try:
                await self._copy(receive, send)
            except GatewayError as error:
                await self._fail(error, send)
            except asyncio.CancelledError:  # the server gave up waiting for this request
                self._record.failure = ShuttingDown("The gateway ended before the answer did.")
                raise

    async def _copy(self, receive: Receive, send: Send) -> None:
        exchange, settings = self._exchange, self._around.settings
        with self._around.drain.guard(self._lifeline):
            async with self._lifeline, _watched(receive, self._lifeline):
                limit_s = settings.response_timeout_s
                self._lifeline.allow(limit_s, UpstreamTimeout(f"The runtime did not answer within {limit_s:g} s."))
                client = self._around.replica.client
                async with client.open(exchange.path, exchange.body, prompt_param=exchange.prompt_param) as answer:
                    await (self._copy_stream(answer, send) if exchange.stream else self._copy_whole(answer, send))

    async def _fail(self, error: GatewayError, send: Send) -> None:
        if self._complete and self._started:  # what breaks after a whole answer is nobody's loss
            if self._exchange.stream:
                await self._last_words(b"", send)
            return
        self._record.failure = error
        if self._started and not isinstance(error, ClientGone):
            await self._last_words(error_event(error), send)
        if isinstance(error, _LEAVES_WORK_BEHIND):
            await self._abort()
        if not self._started and not isinstance(error, ClientGone):
            raise error

    async def _abort(self) -> None:
        aborts = self._around.metrics.aborts
        try:
            await self._around.replica.client.abort(sorted(self._rids))
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
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, events: list[bytes], send: Send) -> None:
        """Send what the client should see; what came before a bad event is sent before it raises."""
        seen: list[bytes] = []
        failure: GatewayError | None = None
        for event in events:
            try:
                seen.append(self._read(event))
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
        await send({"type": "http.response.start", "status": 200, "headers": headers})

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
