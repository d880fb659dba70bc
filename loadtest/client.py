"""An OpenAI endpoint over HTTP: streams chat completions and measures each of them.

Owns the HTTP client, what is asked of every request, and the table of what can go wrong underneath: a request's failure
is data, never an exception. Refuses to own the events of a stream (stream.py) and what a runtime says of itself
(runtime.py).
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from loadtest.errors import EndpointError
from loadtest.record import Answer, Failure, FailureKind, Left, Request
from loadtest.stream import ErrorEvent, Garbage, StreamReader, error_message

_FAILURES: tuple[tuple[type[Exception], FailureKind], ...] = (
    (httpx.ConnectError, "unreachable"),
    (httpx.ConnectTimeout, "unreachable"),
    (httpx.TimeoutException, "timeout"),
    (TimeoutError, "timeout"),
    (httpx.HTTPError, "broken"),
    (ErrorEvent, "refused"),
    (Garbage, "garbage"),
)
_MAPPED = tuple(error for error, _ in _FAILURES)
_ERROR_BODY_BYTES = 64 * 2**10
_PATIENCE = 10
"""An answer takes this many times the silence that fails it, at most: keep-alives alone do not keep it alive."""
WARM_UP_TOKENS = 16
"""Of an answer that is asked for before a measurement."""


class AcceptanceFigures(Enum):
    """How acceptance figures are asked for; an endpoint that does not know them is asked for none."""

    NONE = "none"
    SGLANG = "sglang"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class Sampling:
    """What every request of a measurement asks for."""

    model: str
    max_tokens: int
    temperature: float = 0.0
    figures: AcceptanceFigures = AcceptanceFigures.NONE
    seed: int | None = None
    """Of sampling; None: the endpoint's choice."""
    token_counts: bool = False
    """Ask for usage with every chunk (SGLang, vLLM)."""
    ignore_eos: bool = False
    """Go on to `max_tokens` (SGLang, vLLM)."""

    def body(self, messages: Sequence[Mapping[str, str]]) -> bytes:
        """Of a request."""
        options = {"include_usage": True} | ({"continuous_usage_stats": True} if self.token_counts else {})
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": options,
        }
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.figures is AcceptanceFigures.SGLANG:
            fields["return_spec_tokens_details"] = True
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return orjson.dumps(fields)

    def headers(self) -> dict[str, str]:
        """Of a request."""
        asked = {"x-aerie-include": "speculation"} if self.figures is AcceptanceFigures.GATEWAY else {}
        return {"content-type": "application/json", **asked}


class Client:
    """One endpoint. Use as `async with`; as many connections as there are requests at a time."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 120) -> None:
        self.url = base_url(url)
        self._limit_s = _PATIENCE * timeout_s
        self._http = httpx.AsyncClient(
            headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        *,
        keep_text: bool = False,
        leave_after_tokens: int | None = None,
    ) -> Request:
        """Stream one chat completion, or leave in the middle of it; whatever goes wrong is in the outcome."""
        body, headers = sampling.body(messages), sampling.headers()
        sent_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._limit_s):
                outcome = await self._stream(body, headers, StreamReader(keep_text=keep_text), leave_after_tokens)
        except _MAPPED as error:
            outcome = _failure(error)
        return Request(sent_s, time.perf_counter(), outcome)

    async def _stream(
        self, body: bytes, headers: dict[str, str], reader: StreamReader, leave_after_tokens: int | None
    ) -> Answer | Failure | Left:
        url = f"{self.url}/v1/chat/completions"
        async with self._http.stream("POST", url, content=body, headers=headers) as response:
            if response.status_code != HTTPStatus.OK:
                return Failure("refused", f"status {response.status_code}, {await _words(response)}")
            async for data in response.aiter_raw():
                reader.feed(data, time.perf_counter())
                if leave_after_tokens is not None and reader.tokens >= leave_after_tokens:
                    return Left(reader.tokens)
        return reader.answer()

    async def document(self, path: str) -> dict[str, Any]:
        """A JSON object that the endpoint answers under a path.

        Raises:
            EndpointError: it cannot be reached, or answers something else.
        """
        return await self._json(self._http.build_request("GET", self.url + path), path)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion that is not streamed.

        Raises:
            EndpointError: as `document`.
        """
        path = "/v1/chat/completions"
        return await self._json(self._http.build_request("POST", self.url + path, json=body), path)

    async def _json(self, request: httpx.Request, path: str) -> dict[str, Any]:
        try:
            response = await self._http.send(request)
            document = orjson.loads(response.content) if response.status_code == HTTPStatus.OK else None
        except httpx.HTTPError as error:
            failure = _failure(error)
            raise EndpointError(f"{self.url}: {failure}") from error
        except orjson.JSONDecodeError as error:
            raise EndpointError(f"{self.url}: {path} is not JSON") from error
        if response.status_code != HTTPStatus.OK:
            raise EndpointError(f"{self.url}: {path} answers status {response.status_code}")
        if not isinstance(document, dict):
            raise EndpointError(f"{self.url}: {path} is not a JSON object")
        return document

    async def flush_cache(self) -> bool:
        """Forget cached prompts, as SGLang can when it is idle; whether it did."""
        try:
            return (await self._http.post(f"{self.url}/flush_cache")).status_code == HTTPStatus.OK
        except httpx.HTTPError:
            return False


def base_url(url: str) -> str:
    """The URL that `/v1/...` follows on.

    Raises:
        EndpointError: not the URL of an endpoint.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise EndpointError(f"{url}: not a URL ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query:
        raise EndpointError(f"{url}: write a URL like http://127.0.0.1:30000")
    if parts.userinfo:
        raise EndpointError("a URL with a password would end up in the file: use AERIE_API_KEY")
    return url.rstrip("/").removesuffix("/v1")


async def _words(response: httpx.Response) -> str:
    """What an error's body says, as far as it is worth reading."""
    body = b""
    async for data in response.aiter_raw():
        body += data
        if len(body) > _ERROR_BODY_BYTES:
            break
    try:
        return error_message(orjson.loads(body))
    except orjson.JSONDecodeError:
        return "without an error in JSON"


def _failure(error: Exception) -> Failure:
    kind = next(kind for known, kind in _FAILURES if isinstance(error, known))
    return Failure(kind, " ".join(str(error).split())[:200] or type(error).__name__)
