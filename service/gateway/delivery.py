"""An answer on its way from the runtime to the client: copied, translated where that was asked for, accounted for.

Owns what the client is sent and what the record learns from it. Refuses to own where the answer comes from, and what
becomes of a request whose answer breaks (relay.py). Streams are copied as bytes: unless they are translated, only the
last events are parsed, and only the usage is written anew, where acceptance figures were asked for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import Send

from service.gateway import sglang, sglang_events
from service.gateway.batches import Stay
from service.gateway.errors import ClientGone, GatewayError, UpstreamProtocolError, UpstreamTimeout
from service.gateway.exchange import Exchange
from service.gateway.include import speculation_block
from service.gateway.lifeline import Lifeline
from service.gateway.metrics import Metrics
from service.gateway.record import RequestRecord
from service.gateway.sse import EventSplitter, error_event, events

LAST_WORDS_S = 1.0
"""For the end of an answer that is complete, or for telling the client of an error."""

RawHeaders = list[tuple[bytes, bytes]]

_HIDDEN_BUT_DETAILS = frozenset({"metadata"})
_HIDDEN = _HIDDEN_BUT_DETAILS | {"sglext"}
"""Fields of SGLang's whole answers that a client does not see."""
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Delivery:
    """One request's answer. `started`: the client has been sent something; `complete`: all of it has been read."""

    _on_start: Callable[[], RawHeaders]  # of `copy`
    _stay: Stay

    def __init__(
        self, exchange: Exchange, record: RequestRecord, lifeline: Lifeline, metrics: Metrics, stall_timeout_s: float
    ) -> None:
        self.started = False
        self.complete = False
        self._closed = False
        self._unsent = b""
        self.rids = set(exchange.rids)
        self._chunks = 0
        self._kept: bytearray | None = None
        self._keep_bytes = 0
        self._is_plain = exchange.translation is None and not exchange.own_ids  # chunks pass as they are
        self._exchange = exchange
        self._record = record
        self._lifeline = lifeline
        self._metrics = metrics
        self._stall_s = stall_timeout_s

    def _runtime_silent(self) -> GatewayError:
        return UpstreamTimeout(f"The runtime sent nothing for {self._stall_s:g} s.")

    def _client_slow(self) -> GatewayError:
        return ClientGone(f"The client read nothing for {self._stall_s:g} s.")

    def keep(self, limit_bytes: int) -> None:
        """Remember what the client is sent, unless that is more than this."""
        self._kept, self._keep_bytes = bytearray(), limit_bytes

    @property
    def kept(self) -> bytes | None:
        """What the client was sent, if it was to be kept."""
        return None if self._kept is None else bytes(self._kept)

    def _remember(self, data: bytes) -> None:
        if self._kept is None:
            return
        self._kept += data
        if len(self._kept) > self._keep_bytes:
            self._kept = None

    async def copy(self, answer: sglang.Answer, send: Send, on_start: Callable[[], RawHeaders], stay: Stay) -> None:
        """All of the answer; `on_start` is called when it begins, and says which headers to add.

        `stay` is told of a stream's chunks.

        Raises:
            GatewayError: it broke.
        """
        self._on_start, self._stay = on_start, stay
        try:
            await (self._copy_stream(answer, send) if self._exchange.stream else self._copy_whole(answer, send))
        finally:
            del self._on_start  # its owner holds us: a cycle would keep the request's body until a collection

    async def break_off(self, error: GatewayError, send: Send) -> None:
        """Tell the client of an error after the beginning."""
        translation = self._exchange.translation
        await self._last_words(translation.fail(error) if translation else error_event(error), send)

    async def close(self, send: Send) -> None:
        """End what is complete already, for a client that has not got all of it yet.

        Raises:
            TimeoutError: it does not take it.
        """
        if self._exchange.stream and not self._closed:
            async with asyncio.timeout(LAST_WORDS_S):
                await send({"type": "http.response.body", "body": self._unsent, "more_body": False})

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
        self.complete = True
        self._remember(body)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _for_client(self, document: dict[str, Any]) -> dict[str, Any]:
        if self._exchange.translation is not None:
            return self._exchange.translation.whole(document)
        hidden = _HIDDEN_BUT_DETAILS if self._exchange.wants_details else _HIDDEN
        seen = {key: value for key, value in document.items() if key not in hidden}
        seen["id"] = self._exchange.rid
        return self._with_figures(seen) if self._exchange.wants_speculation else seen

    def _with_figures(self, document: dict[str, Any]) -> dict[str, Any]:
        """Of several prompts SGLang tells the first one's figures only: less than all is nothing."""
        figures = self._record.speculation if len(self._exchange.rids) == 1 else None
        return document | {"usage": (document.get("usage") or {}) | {"speculation": speculation_block(figures)}}

    async def _copy_stream(self, answer: sglang.Answer, send: Send) -> None:
        splitter = EventSplitter()
        async for data in answer.chunks():  # to the body's end, so that the connection can be used again
            if not self.complete:
                await self._pass_on(splitter.feed(data), answer, send)
        if not self.complete:
            raise UpstreamProtocolError("The runtime's stream ended before it was complete.")
        if not self._closed:
            self._lifeline.allow(self._stall_s, self._client_slow)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, block: bytes, answer: sglang.Answer, send: Send) -> None:
        """Send what the client should see; what came before a bad event is sent before it raises."""
        plain, count = sglang_events.leading_chunks(block) if self._is_plain else (b"", 0)
        seen = [plain]
        failure: GatewayError | None = None
        chunks, self._chunks = self._chunks, self._chunks + count
        for event in events(block[len(plain) :]) if len(plain) < len(block) else ():
            if self.complete:
                break
            try:
                seen.append(self._read(event))
            except GatewayError as error:
                failure = error
                break
        if self._chunks > chunks:
            self._time_arrival(self._chunks - chunks)
        last = self.complete and answer.complete  # else the client asks again before its place is free
        if (data := b"".join(seen)) or last:
            await self._send_chunk(data, send, last=last)
        if failure is not None:
            raise failure

    async def _send_chunk(self, data: bytes, send: Send, *, last: bool) -> None:
        self._lifeline.allow(self._stall_s, self._client_slow)
        if not self.started:
            await self._start(send, _STREAM_HEADERS)
        self._remember(data)
        self._unsent = data
        await send({"type": "http.response.body", "body": data, "more_body": not last})
        self._unsent, self._closed = b"", last
        self._lifeline.allow(LAST_WORDS_S if self.complete else self._stall_s, self._runtime_silent)

    async def _start(self, send: Send, headers: RawHeaders) -> None:
        self.started = True
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *self._on_start()]})

    def _read(self, event: bytes) -> bytes:
        """What the client sees of an event: nothing, or all of it, or what it is translated to."""
        translation = self._exchange.translation
        match sglang_events.kind_of(event):
            case sglang_events.Kind.CHUNK:
                self._chunks += 1
                seen = self._under_our_id(event)
                return translation.feed(sglang_events.event_document(event)) if translation else seen
            case sglang_events.Kind.SUMMARY:
                document = sglang_events.event_document(event)
                self._account(document)
                if translation:
                    return translation.feed(document)
                return self._summary(event, document)
            case sglang_events.Kind.DONE:
                self.complete = True
                return translation.done() if translation else event
            case sglang_events.Kind.ERROR:
                raise sglang_events.event_error(event, prompt_param=self._exchange.prompt_param)
            case sglang_events.Kind.COMMENT:
                return event

    def _summary(self, event: bytes, document: dict[str, Any]) -> bytes:
        """Usage, or SGLang's acceptance figures, where the client asked for either."""
        if "sglext" in document:
            return self._under_our_id(event) if self._exchange.wants_details else b""
        if self._exchange.wants_speculation:
            event = b"data: " + orjson.dumps(self._with_figures(document)) + b"\n\n"
        return self._under_our_id(event) if self._exchange.wants_usage else b""

    def _account(self, document: dict[str, Any]) -> None:
        self._record.usage = sglang_events.usage_of(document) or self._record.usage
        self._record.speculation = sglang_events.speculation_of(document) or self._record.speculation

    def _time_arrival(self, chunks: int) -> None:
        """Chunks that arrive together are one arrival."""
        self._stay.arrived(chunks)
        gap_s = self._record.chunk(time.perf_counter())
        if gap_s is not None:
            self._metrics.between_chunks(self._record.route, self._record.pool).observe(gap_s)

    def _under_our_id(self, event: bytes) -> bytes:
        if not self._exchange.own_ids:
            return event
        event, theirs = sglang_events.adopt_id(event, self._exchange.rid)
        if theirs is not None:
            self.rids.add(theirs)
        return event
