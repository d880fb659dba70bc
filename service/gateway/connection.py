"""One client's connection: what it sends is bounded in size and time, and none is held without being used.

Owns the limits on a request's head, on idleness and on a client that does not read, over uvicorn's parser and flow
control. It has no timers: the server looks at every connection in turn. Refuses to own a body while somebody reads it
(middleware.py) and answers (delivery.py).

What cannot reach the application is answered here, in its words: 408 where a request has begun, 431, 400. Then nothing
more is said, and what still comes is dropped for a moment, so that the client gets to read the answer.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Self
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.gateway.cycle import Cycle
from service.gateway.errors import ClientGone, GatewayError, HeadersTooLarge, HeadTimeout, InvalidRequest
from service.gateway.lifeline import Lifelines
from service.gateway.metrics import Metrics
from service.gateway.settings import Settings

BODY_MARGIN_S = 1.0
"""Whoever reads the body ends its wait first, with a better answer."""
LINGER_S = 2.0
"""Between our last word and the end."""
_PER_HEADER_BYTES = 4
"""A colon, a space and the end of the line."""
_PER_BODY_BYTE = 9
"""What a body's byte may weigh: chunks of one byte are silly, and no attack."""


class Stage(Enum):
    """What a connection is at."""

    NEW = auto()
    HEAD = auto()
    BODY = auto()
    AT_WORK = auto()
    UNREAD = auto()
    IDLE = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a stage may last, and how large a head may be."""

    seconds: dict[Stage, float]
    head_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say."""
        seconds = {
            Stage.NEW: settings.header_timeout_s,
            Stage.HEAD: settings.header_timeout_s,
            Stage.BODY: settings.body_timeout_s + BODY_MARGIN_S,
            Stage.AT_WORK: float("inf"),  # relay.py's to bound
            Stage.UNREAD: settings.stall_timeout_s,
            Stage.IDLE: settings.keep_alive_timeout_s,
            Stage.ENDED: LINGER_S,
        }
        return cls(seconds, settings.header_limit_bytes)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol for HTTP/1.1, with limits; no upgrades."""

    def __init__(self, *, limits: ConnectionLimits, metrics: Metrics, **uvicorns: Any) -> None:  # noqa: ANN401
        super().__init__(**uvicorns)
        self._limits = limits
        self._metrics = metrics
        self._receiving: Stage | None = None  # HEAD or BODY, from a message's first byte to its last
        self._messages = 0
        self._head_bytes = 0
        self._count_head = False
        self._body_bytes = self._raw_bytes = 0
        self._ended = False
        self._served: RequestResponseCycle | None = None
        self.lifelines = Lifelines(lambda: ClientGone("The client closed the connection."))
        self._seen: tuple[Stage, int, int] | None = None
        self._seen_s = 0.0

    # What the parser finds

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._receiving, self._head_bytes = Stage.HEAD, 0
        self._messages += 1

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        if self._count_head:
            self._head_bytes = sum(len(name) + len(value) + _PER_HEADER_BYTES for name, value in self.headers)
            self._head_bytes += len(self.url)
            if self._head_is_too_large:
                raise ValueError("stops the parser; send_400_response is next")
        self._receiving = Stage.BODY
        self._body_bytes = self._raw_bytes = 0
        self._describe()
        before, self.cycle = self.cycle, self._new_cycle()
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # it was sent before the last one's answer: its turn comes after that
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _describe(self) -> None:
        """What the head says, for the application."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""

    def _new_cycle(self) -> Cycle:
        return Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.scope["http_version"] != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def on_response_complete(self) -> None:
        """An answer has been written: on to the next, if it was asked for already. No timer: the server looks."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        super().on_message_complete()
        self._receiving = None

    def data_received(self, data: bytes) -> None:
        """Parse; a head that does not end is not collected beyond the limit."""
        if self._ended:
            return
        before = self._receiving or Stage.HEAD, self._messages + (self._receiving is None)
        self._count_head = self._receiving is Stage.HEAD or len(data) > self._limits.head_bytes  # else it is small
        super().data_received(data)
        if (self._receiving, self._messages) == before and not self._ended:  # else some of it is of something else
            self._weigh(len(data))

    def _weigh(self, size: int) -> None:
        """Count what has come of a head or a body that goes on, also what the parser still holds of it."""
        if self._receiving is Stage.HEAD:
            self._head_bytes += size
        else:
            self._raw_bytes += size
        if self._head_is_too_large or self._trailer_is_too_large:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does when its parser stops."""
        if self._head_is_too_large:
            self._refuse_head()
        else:
            self._cut("malformed", InvalidRequest(msg))

    @property
    def _head_is_too_large(self) -> bool:
        return self._receiving is Stage.HEAD and self._head_bytes > self._limits.head_bytes

    @property
    def _trailer_is_too_large(self) -> bool:
        return self._raw_bytes > self._limits.head_bytes + _PER_BODY_BYTE * self._body_bytes

    def _refuse_head(self) -> None:
        self._cut("header_limit", HeadersTooLarge(f"The headers are larger than {self._limits.head_bytes} bytes."))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was made to. What holds the connection lets go of it: nobody collects cycles soon."""
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)
        self.lifelines.end()
        self.pipeline.clear()
        self.scope = self.cycle = self._served = None  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's
        self._served = cycle  # uvicorn's own `cycle` is the last that came, which may have to wait for this one
        super()._start_asgi_task(cycle, app)

    # What its requests see

    @property
    def body_is_here(self) -> bool:
        """Whether nothing of a request is still to come."""
        return self._receiving is None

    @property
    def whole_body_bytes(self) -> int | None:
        """How large the body of the request that is served is, if it has come and was not read yet; else None."""
        served = self._served
        return None if served is None or served.more_body or served.disconnected else len(served.body)

    def watch(self) -> None:
        """Read on, if a large body has stopped it: else nobody would see the client leave."""
        self.flow.resume_reading()

    # What the server sees

    def look(self, now_s: float) -> None:
        """End the connection if it has been at one thing for too long."""
        unread_bytes = self.transport.get_write_buffer_size()
        stage = Stage.UNREAD if unread_bytes else self._stage()
        seen = stage, self._messages, unread_bytes  # something in it moves whenever the client does
        if seen != self._seen:
            self._seen, self._seen_s = seen, now_s
        elif now_s - self._seen_s >= self._limits.seconds[stage]:
            self._end(stage)

    def _stage(self) -> Stage:
        if self._ended:
            return Stage.ENDED
        if self._receiving is Stage.BODY and not self.pipeline:  # else it is not read before its turn
            return Stage.BODY
        if self._is_at_work:
            return Stage.AT_WORK  # a next head may be under way: its time begins when this answer ends
        return self._receiving or (Stage.IDLE if self._messages else Stage.NEW)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end(self, stage: Stage) -> None:
        match stage:
            case Stage.UNREAD:
                self._metrics.cut_connections.labels("not_reading").inc()
                self.transport.abort()
            case Stage.HEAD if self.url:
                limit_s = self._limits.seconds[stage]
                self._cut("header_timeout", HeadTimeout(f"The headers did not arrive within {limit_s:g} s."))
            case Stage.NEW | Stage.HEAD:
                self._cut("header_timeout")
            case Stage.BODY:
                self._cut("body_timeout")
            case _:
                self.transport.close()

    def _cut(self, reason: str, error: GatewayError | None = None) -> None:
        """End it; with an answer, unless an earlier request's is under way."""
        self._metrics.cut_connections.labels(reason).inc()
        self._ended = True
        if error is None or self._is_at_work:
            self.transport.close()
        else:
            self.transport.write(_whole_answer(error))
            self.transport.write_eof()


def _whole_answer(error: GatewayError) -> bytes:
    body = error.body
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return STATUS_LINE[error.status] + head.encode() + body
