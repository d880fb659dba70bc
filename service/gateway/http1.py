"""HTTP/1.1 to one upstream: what a gateway needs of it and no more. Why no library: docs/decisions/0003-http-client.md.

Owns connections: opening them, framing (by httptools, which uvicorn parses with too), back-pressure, using them again.
Refuses to own what is said over them (sglang.py) and trying again: only others know what may be sent twice.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

KEEP_ALIVE_S = 2.0
"""Shorter than SGLang's own 5 s, so that an idle connection is never used while the runtime closes it."""
BUFFER_BYTES = 256 * 2**10
"""Of an answer that nobody reads, before the upstream has to wait."""

_WITHOUT_BODY = (204, 304)


class HttpError(Exception):
    """There was no answer, or not all of it."""


class CannotConnect(HttpError):
    """Nothing was sent."""


class TimedOut(HttpError):
    """The answer was not complete in time."""


class NoAnswer(HttpError):
    """The connection broke before the answer's head: the request may have been read."""


class CutShort(HttpError):
    """The connection broke inside the answer's body."""


class NotHttp(HttpError):
    """What came is not HTTP/1.1."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection and, one at a time, the answers on it; `status` is of the present one.

    The event loop calls the methods of `asyncio.Protocol`, httptools those that begin with `on_`.
    """

    def __init__(self) -> None:
        self.status = 0
        self.idle_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._failure: HttpError | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._has_head = False
        self._has_length = False  # else the answer ends with the connection
        self._complete = True
        self._paused = False
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @property
    def usable(self) -> bool:
        """Whether another request can be sent: the answer before has been read to its end."""
        return self._complete and not self._chunks and not self._closed

    def close(self) -> None:
        """At once, whatever is under way."""
        self._closed = True
        self._transport.abort()

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for the answer's head.

        Raises:
            HttpError: there was none.
        """
        assert self.usable, "one exchange at a time"
        self._has_head = self._complete = False
        self._transport.writelines((head, body))
        while not self._has_head:
            if self._closed:
                raise self._failure or NoAnswer
            await self._more()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives: what arrived together is one chunk.

        Raises:
            HttpError: it broke.
        """
        while data := await self._next():
            yield data

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            HttpError: it broke.
        """
        if self._complete and self._chunks:
            return self._take()
        chunks = []
        while data := await self._next():
            chunks.append(data)
        return b"".join(chunks)

    async def _next(self) -> bytes:
        """What has arrived since; empty at the body's end."""
        while not self._chunks:
            if self._complete:
                return b""
            if self._closed:
                raise self._failure or CutShort
            await self._more()
        return self._take()

    def _take(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Once, first."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse it, which calls the methods below, and tell who waits."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._failure = NotHttp()
            self.close()
        self._wake()

    def eof_received(self) -> None:
        """The upstream will say no more: what is complete is the last answer."""
        self._closed = self._closed or self._complete

    def connection_lost(self, error: Exception | None) -> None:
        """Once, last."""
        self._closed = True
        if self._has_head and not self._has_length and error is None:
            self._complete = True
        self._wake()

    def on_message_begin(self) -> None:
        """An answer, final or not."""
        if self._complete:
            raise NotHttp  # nobody asked
        self._has_length = False

    def on_header(self, name: bytes, _: bytes) -> None:
        """Does it say where the body ends?"""
        self._has_length = self._has_length or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Interim answers (1xx) are passed over."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200
        self._has_length = self._has_length or self.status in _WITHOUT_BODY

    def on_body(self, data: bytes) -> None:
        """Some of it."""
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > BUFFER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """All of it."""
        if self._has_head:
            self._complete = True
            self._closed = self._closed or not self._parser.should_keep_alive()


class HttpClient:
    """One upstream. Connections are used again, the last one first; nothing is sent twice."""

    def __init__(self, url: str, *, connect_timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        headers = f"host: {parts.netloc}\r\nuser-agent: aerie-gateway\r\naccept-encoding: identity\r\n"
        self._headers = f" HTTP/1.1\r\n{headers}content-type: application/json\r\ncontent-length: "
        self._idle: deque[Connection] = deque()
        self._closed = False

    def close(self) -> None:
        """Close every idle connection now, the others when their answers are over."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def open(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Connection:
        """Send a request and wait for its answer's head; the connection is the caller's until `leave`.

        `headers` are further lines, each with its end.

        Only connecting is bounded in time.

        Raises:
            HttpError: there is no answer.
        """
        connection = self._used_before() or await self._connect(self._connect_timeout_s)
        try:
            await connection.send(self._head(method, path, body, headers), body)
        except BaseException:
            connection.close()
            raise
        return connection

    def leave(self, connection: Connection) -> None:
        """Give it back: if its answer is complete it is used again, else closed."""
        if self._closed or not connection.usable:
            connection.close()
            return
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)
        while connection.idle_since_s - self._idle[0].idle_since_s > KEEP_ALIVE_S:
            self._idle.popleft().close()

    async def fetch(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> Answer:
        """A request and its whole answer. Connecting and answering have this time each.

        Raises:
            HttpError: there is none, or not in time.
        """
        connection = self._used_before() or await self._connect(min(timeout_s, self._connect_timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                await connection.send(self._head(method, path, body), body)
                return Answer(connection.status, await connection.read())
        except TimeoutError as error:
            raise TimedOut from error
        finally:
            self.leave(connection)

    def _head(self, method: str, path: str, body: bytes, headers: str = "") -> bytes:
        return f"{method} {self._path}{path}{self._headers}{len(body)}\r\n{headers}\r\n".encode()

    def _used_before(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and time.monotonic() - connection.idle_since_s < KEEP_ALIVE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, timeout_s: float) -> Connection:
        if self._closed:
            raise CannotConnect("this client is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except OSError as error:  # TimeoutError is one
            raise CannotConnect from error
        return connection
