"""Every error a client can see, and the one place where foreign errors become ours.

Owns the exception tree (an error knows its status, type and code), OpenAI's error body, and the places that map the
HTTP client's errors and SGLang's. Refuses to own what to do about an error: no logging, no retries.
"""

import re
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import orjson

from service.gateway.http1 import CannotConnect, CutShort, HttpError, NoAnswer, TimedOut


class GatewayError(Exception):
    """The root: carries what OpenAI's error body and the response's status line need."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s
        self.allow = allow

    @property
    def body(self) -> bytes:
        """OpenAI's `{"error": {message, type, param, code}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    @property
    def headers(self) -> dict[str, str]:
        """Headers the status calls for."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.allow is not None:
            headers["allow"] = self.allow
        return headers


class InternalError(GatewayError):
    """A bug of ours: the details are in the log, never in the body."""


class InvalidRequest(GatewayError):
    """The request cannot be served as it stands."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthorized(InvalidRequest):
    """No key, or none that is known and valid."""

    status, code = 401, "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 asks for the scheme."""
        return {**super().headers, "www-authenticate": "Bearer"}


class Forbidden(InvalidRequest):
    """The key is good, but not for this."""

    status, code = 403, "model_not_allowed"


class NotFound(InvalidRequest):
    """No such route."""

    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    """No such model."""

    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The route exists, the method does not."""

    status, code = 405, "method_not_allowed"


class HeadTimeout(InvalidRequest):
    """The request's head did not arrive in time."""

    status, code = 408, "header_timeout"


class BodyTimeout(InvalidRequest):
    """The request's body did not arrive in time."""

    status, code = 408, "body_timeout"

    @property
    def headers(self) -> dict[str, str]:
        """The rest of the body is not waited for."""
        return {**super().headers, "connection": "close"}


class PayloadTooLarge(InvalidRequest):
    """The request's body is over the limit."""

    status, code = 413, "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not declared as JSON."""

    status, code = 415, "unsupported_media_type"


class HeadersTooLarge(InvalidRequest):
    """The request's head is over the limit."""

    status, code = 431, "headers_too_large"


class Overloaded(GatewayError):
    """The queue is full: come back later."""

    status, type, code = 429, "rate_limit_error", "queue_full"


class RateLimited(GatewayError):
    """The key's own limit is reached; `headers` say what is left and when to come back."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        limit_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self._limit_headers = limit_headers or {}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After and OpenAI's x-ratelimit-*."""
        return {**super().headers, **self._limit_headers}


class ClientGone(GatewayError):
    """The client left, or reads too slowly. Never seen by it: 499 is for the log and the metrics (nginx's number)."""

    status, code = 499, "client_closed_request"


class UpstreamProtocolError(GatewayError):
    """The runtime broke the connection, or spoke something that is not its protocol."""

    status, code = 502, "upstream_protocol_error"


class UpstreamFailed(GatewayError):
    """The runtime answered that it failed on this request."""

    status, code = 502, "upstream_failed"


class UpstreamUnavailable(GatewayError):
    """The runtime cannot be reached, or is not ready."""

    status, code = 503, "upstream_unavailable"


class ShuttingDown(GatewayError):
    """The gateway's drain time is over."""

    status, code = 503, "shutting_down"


class UpstreamTimeout(GatewayError):
    """The runtime was silent for too long."""

    status, code = 504, "upstream_timeout"


RETRY_AFTER_S = 1
UNAVAILABLE_RETRY_AFTER_S = 5


def unavailable(message: str) -> UpstreamUnavailable:
    """The 503 of a runtime that cannot take requests now."""
    return UpstreamUnavailable(message, retry_after_s=UNAVAILABLE_RETRY_AFTER_S)


def from_http(error: HttpError) -> GatewayError:
    """Map what the HTTP client raises."""
    match error:
        case CannotConnect():
            return unavailable("The runtime cannot be reached.")
        case TimedOut():
            return UpstreamTimeout("The runtime did not answer in time.")
        case NoAnswer() | CutShort():
            return UpstreamProtocolError("The runtime closed the connection before its answer was complete.")
        case _:
            return UpstreamProtocolError("The runtime's answer could not be read.")


class _SGLangRow(NamedTuple):
    status: int
    pattern: re.Pattern[str]
    error: type[GatewayError]
    code: str | None = None
    param: str | None = None


def _row(
    status: int, pattern: str, error: type[GatewayError], code: str | None = None, param: str | None = None
) -> _SGLangRow:
    return _SGLangRow(status, re.compile(pattern), error, code, param)


# SGLang 0.5.23: managers/scheduler.py, managers/tokenizer_manager.py, constrained/*_backend.py. First match decides.
_SGLANG = (
    _row(400, "context length", InvalidRequest, "context_length_exceeded", "messages"),
    _row(400, "Failed to compile json grammar", InvalidRequest, "invalid_grammar", "response_format"),
    _row(400, "Failed to compile regex grammar", InvalidRequest, "invalid_grammar", "regex"),
    _row(400, "Failed to compile ebnf grammar", InvalidRequest, "invalid_grammar", "ebnf"),
    _row(400, "logit_bias", InvalidRequest, None, "logit_bias"),
    _row(400, "^Tool ", InvalidRequest, None, "tools"),
    _row(400, "", InvalidRequest),
    _row(413, "", InvalidRequest),
    _row(422, "", InvalidRequest),
    _row(429, "", Overloaded),
    _row(502, "", UpstreamProtocolError),  # a proxy's before it: the runtime may have read the request
    _row(503, "queue is full|higher priority", Overloaded),
    _row(503, "", UpstreamUnavailable),
    _row(504, "", UpstreamTimeout),
)
_SOURCE_LOCATION = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
_RETRY_AFTER = {Overloaded: RETRY_AFTER_S, UpstreamUnavailable: UNAVAILABLE_RETRY_AFTER_S}
_MESSAGE_CHARS = 500


def from_sglang(status: int, message: str, *, prompt_param: str) -> GatewayError:
    """Map an error SGLang answered with, by status and message; `prompt_param` is the request's prompt field."""
    for row in _SGLANG:
        if row.status == status and row.pattern.search(message):
            param = prompt_param if row.param == "messages" else row.param
            retry_after_s = _RETRY_AFTER.get(row.error)
            return row.error(_first_line(message), param=param, code=row.code, retry_after_s=retry_after_s)
    return UpstreamFailed(f"The runtime failed on this request (status {status}).")


def _first_line(message: str) -> str:
    """SGLang's own words, without source locations and the dumps that follow the first line."""
    line = message.strip().partition("\n")[0]
    return _SOURCE_LOCATION.sub("", line)[:_MESSAGE_CHARS] or "The runtime refused the request."


def sglang_message(body: bytes) -> str:
    """The message of SGLang's `{"object": "error", "message": ...}` or `{"error": {"message": ...}}`, else ""."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    error = document.get("error", document) if isinstance(document, dict) else {}
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""
