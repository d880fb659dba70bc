"""What holds for every request, as pure ASGI: an id, a bounded body, one log line, its place in the metrics.

Owns these and nothing of a route's. Refuses to log headers, queries and bodies.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.gateway import headers, log
from service.gateway.connection import Connection
from service.gateway.drain import Drain
from service.gateway.errors import BodyTimeout, ClientGone, InternalError, PayloadTooLarge
from service.gateway.headers import header
from service.gateway.metrics import Metrics
from service.gateway.observe import Recorder
from service.gateway.record import Outcome, RequestRecord
from service.gateway.status_errors import RecentErrors
from service.gateway.tracing import passed_on

REQUEST_ID = "x-request-id"
_REQUEST_ID = REQUEST_ID.encode()
_LAST = b"connection", b"close"
LINGER_BODIES = 16
"""A body over the limit is read and dropped up to this many limits, so that its sender gets to read the 413."""

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics", "/", "/status/fragment", "/status/{name}"})
"""Operators': asked for all the time."""

_log = logging.getLogger("aerie.gateway")


class Observe:
    """Outermost: gives a request its id and record, turns a bug into a 500, logs and counts the end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, errors: RecentErrors, drain: Drain) -> None:
        self._app = app
        self._errors = errors
        self._drain = drain
        self._recorder = Recorder(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers.keep(scope)
        record = RequestRecord(_request_id(scope), scope["method"], scope["path"])
        record.trace = passed_on(scope["headers"])
        scope["state"]["record"] = record
        token, sender = log.request_id.set(record.request_id), _Sender(record, send, self._drain)
        try:
            await self._app(scope, receive, sender)
        except Exception:  # noqa: BLE001 - the outermost loop: a bug costs one request, not the server
            _log.exception("unexpected error")
            await self._apologise(record, sender)
        finally:
            self._finish(record, scope)
            log.request_id.reset(token)

    async def _apologise(self, record: RequestRecord, send: Send) -> None:
        record.failure = error = InternalError("The gateway failed on this request.")
        if not record.status:
            json = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": error.status, "headers": json})
            await send({"type": "http.response.body", "body": error.body})

    def _finish(self, record: RequestRecord, scope: Scope) -> None:
        record.ended_s = time.perf_counter()
        record.status = record.status or 499
        record.route = getattr(scope.get("route"), "path", record.route)
        self._recorder.observe(record)
        self._errors.note(record)
        outcome = record.outcome
        log.access(_level(record, outcome), _fields(record, outcome))


class _Sender:
    """Notes the status and puts the request's id on the answer; of a gateway that drains, a connection's last."""

    def __init__(self, record: RequestRecord, send: Send, drain: Drain) -> None:
        self._record = record
        self._send = send
        self._drain = drain

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            mine = (_REQUEST_ID, self._record.request_id.encode())
            message["headers"] = [*message.get("headers", ()), mine]
            if self._drain.draining:
                message["headers"].append(_LAST)
        return self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's, if it is short and plain, else a new one."""
    given = header(scope, _REQUEST_ID) or ""
    return given if _SANE_REQUEST_ID.fullmatch(given) else f"req-{random.getrandbits(128).to_bytes(16).hex()}"


def _level(record: RequestRecord, outcome: Outcome) -> int:
    if record.route in QUIET_ROUTES:
        return logging.DEBUG
    return logging.WARNING if outcome is Outcome.ERROR else logging.INFO


def _fields(record: RequestRecord, outcome: Outcome) -> dict[str, object]:
    ttft_s = record.time_to_first_token_s
    tau = record.speculation.acceptance_length if record.speculation else None
    return {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "outcome": outcome,
        "code": record.failure and record.failure.code,
        "key": record.key_id,
        "model": record.model,
        "pool": record.pool,
        "reason": record.reason,
        "queued_ms": round(record.queued_s * 1000, 2),
        "stream": record.stream,
        "ttft_ms": None if ttft_s is None else round(ttft_s * 1000, 2),
        "duration_ms": round(record.duration_s * 1000, 2),
        "prompt_tokens": record.usage and record.usage.prompt_tokens,
        "completion_tokens": record.usage and record.usage.completion_tokens,
        "acceptance_length": None if tau is None else round(tau, 3),
    }


class BoundedBody:
    """A body over the limit, or too slow, raises where it is read; it never piles up in memory."""

    def __init__(self, app: ASGIApp, limit_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request, with a guarded `receive` unless all of its body is here; other scopes pass."""
        if scope["type"] == "http" and not self._is_here(scope["state"]["connection"]):
            declared = header(scope, b"content-length") or ""
            receive = _BodyReader(receive, scope["state"]["connection"], declared, self._limit_bytes, self._timeout_s)
        return self._app(scope, receive, send)

    def _is_here(self, connection: Connection) -> bool:
        """Whether nothing is left to bound: most bodies come with their heads."""
        size = connection.whole_body_bytes
        return size is not None and size <= self._limit_bytes


class _BodyReader:
    def __init__(
        self, receive: Receive, connection: Connection, declared: str, limit_bytes: int, timeout_s: float
    ) -> None:
        self._receive = receive
        self._connection = connection
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._declared_bytes = int(declared) if declared.isdecimal() else 0
        self._seen_bytes = 0
        self._deadline_s: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # there is nothing but the client's leaving
        message = await self._next()
        if max(self._declared_bytes, self._seen_bytes) > self._limit_bytes:
            await self._drop_rest()
            raise PayloadTooLarge(f"The body is larger than {self._limit_bytes} bytes.")
        return message

    async def _next(self) -> Message:
        message = await (self._receive() if self._connection.body_is_here else self._wait())
        if message["type"] == "http.disconnect":
            raise ClientGone("The client left before its request was whole.")
        self._seen_bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._whole:
            self._connection.watch()
        return message

    async def _wait(self) -> Message:
        self._deadline_s = self._deadline_s or asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await self._receive()
        except TimeoutError:
            raise BodyTimeout(f"The body did not arrive within {self._timeout_s:g} s.") from None

    async def _drop_rest(self) -> None:
        while not self._whole and self._seen_bytes < LINGER_BODIES * self._limit_bytes:
            await self._next()
