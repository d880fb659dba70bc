"""One SGLang runtime over HTTP: with sglang_events.py all that knows its wire. Facts in docs/sglang.md, from 0.5.23.

Owns the HTTP client, what a runtime says about itself, what we add to a request, and aborting. Refuses to own what its
answers mean (sglang_events.py), a request's life (relay.py), health over time (replica.py) and clients' words
(protocol.py).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import orjson

from service.capabilities import RuntimeFacts
from service.gateway import http1
from service.gateway.errors import (
    GatewayError,
    UpstreamProtocolError,
    from_http,
    from_sglang,
    sglang_message,
    unavailable,
)
from service.gateway.http1 import Connection, HttpClient, HttpError
from service.gateway.settings import Settings
from service.gateway.sglang_events import json_object
from service.speculation import TREE_NUMBERS, tree_text

ABORTS_AT_ONCE = 8
"""Connections that the aborts of one request take; it may have run under hundreds of ids."""

FLAGS = ("dtype", "quantization", "kv_cache_dtype", "tp_size", "dp_size", "pp_size", "ep_size")
"""Of /server_info: a calibration holds for runtimes that are started with the same."""

_ERROR_BODY_BYTES = 64 * 2**10
_OK = int(HTTPStatus.OK)


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """A runtime as it describes itself."""

    models: tuple[str, ...]
    context_length: int | None
    facts: RuntimeFacts
    tree: str
    created_s: int
    flags: Mapping[str, Any]
    """What decides how fast it is, as far as it says (`FLAGS`)."""

    @classmethod
    def parse(cls, server: dict[str, Any], model: dict[str, Any], models: dict[str, Any]) -> Self:
        """From /server_info, /model_info and /v1/models; what a version of SGLang does not say is not assumed.

        Raises:
            UpstreamProtocolError: not what SGLang answers.
        """
        try:
            card, ids = models["data"][0], [card["id"] for card in models["data"]]
            context_length = card.get("max_model_len")
            facts = RuntimeFacts(
                version=server["version"],
                algorithm=server.get("speculative_algorithm") or "NONE",
                device=server.get("device", "unknown"),
                deterministic=bool(server.get("enable_deterministic_inference")),
                tool_call_parser=model.get("tool_call_parser"),
                reasoning_parser=model.get("reasoning_parser"),
            )
            return cls(
                models=tuple(ids),
                context_length=None if context_length is None else int(context_length),
                facts=facts,
                tree=_tree(server) if facts.speculative else "-",
                created_s=int(card.get("created", 0)),
                flags={name: server[name] for name in FLAGS if name in server},
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UpstreamProtocolError(f"The runtime described itself in unknown words ({error!r}).") from error


def _tree(server: dict[str, Any]) -> str:
    """As service.speculation writes it; draft_p_min is told by Aerie's CPU runtime (cpu/cycle.py)."""
    states = server.get("internal_states") or []
    adaptive = server.get("speculative_adaptive") or any(state.get("speculative_draft_p_min") for state in states)
    return tree_text((server.get(f"speculative_{name}") for name in TREE_NUMBERS), adaptive=bool(adaptive))


@dataclass(frozen=True, slots=True)
class RuntimeLoad:
    """What a runtime says of its schedulers, summed over data-parallel ranks."""

    running: int
    waiting: int
    max_running: int

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Self | None:
        """From /v1/loads?include=core (entrypoints/v1_loads.py); None before the first scheduler has published."""
        ranks = document["loads"]
        if not ranks:
            return None
        fields = ("num_running_reqs", "num_waiting_reqs", "max_running_requests")
        return cls(*(sum(int(rank[field]) for rank in ranks) for field in fields))


def mint_rid(prefix: str) -> str:
    """A request id of fixed length: SGLang's scheduler matches ids to abort by prefix. It becomes the answer's id."""
    return f"{prefix}-{random.getrandbits(128).to_bytes(16).hex()}"


def batch_rids(rid: str, prompts: int | None) -> tuple[str, ...]:
    """The ids under which the runtime runs a request: for a list of prompts `rid_0`, `rid_1`, ... (io_struct.py)."""
    return (rid,) if prompts is None else tuple(f"{rid}_{index}" for index in range(prompts))


def additions(rid: str, *, stream: bool, stream_options: dict[str, Any] | None) -> dict[str, Any]:
    """What we ask of every request: our id, acceptance figures, and usage at the end of a stream."""
    fields: dict[str, Any] = {"rid": rid, "return_spec_tokens_details": True}
    if stream:
        fields["stream_options"] = {**(stream_options or {}), "include_usage": True}
    return fields


class Answer:
    """An open answer of the runtime with status 200."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def complete(self) -> bool:
        """Whether all of it has been read."""
        return self._connection.usable

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive.

        Raises:
            GatewayError: the connection broke.
        """
        try:
            async for chunk in self._connection.chunks():
                yield chunk
        except HttpError as error:
            raise from_http(error) from error

    async def document(self) -> dict[str, Any]:
        """The whole answer as JSON.

        Raises:
            GatewayError: the connection broke, or this is not JSON.
        """
        try:
            return json_object(await self._connection.read())
        except HttpError as error:
            raise from_http(error) from error


class _Open:
    """What `SGLang.open` gives."""

    _connection: Connection

    def __init__(self, client: HttpClient, path: str, body: bytes, headers: str, prompt_param: str) -> None:
        self._client = client
        self._request = path, body, headers
        self._prompt_param = prompt_param

    async def __aenter__(self) -> Answer:
        try:
            connection = self._connection = await self._client.open("POST", *self._request)
        except HttpError as error:
            raise from_http(error) from error
        if connection.status == _OK:
            return Answer(connection)
        try:
            message = sglang_message(await _read_some(connection))
        finally:
            self._client.leave(connection)
        raise from_sglang(connection.status, message, prompt_param=self._prompt_param)

    async def __aexit__(self, *_: object) -> None:
        self._client.leave(self._connection)


class SGLang:
    """One runtime's HTTP surface. Timeouts of answers are the caller's: only connecting is bounded here."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._settings = settings
        self._client = HttpClient(url, connect_timeout_s=settings.connect_timeout_s)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def open(self, path: str, body: bytes, headers: str = "", *, prompt_param: str) -> "_Open":
        """A context: sends a request and waits for the answer's head; what was not read when it ends is not waited for.

        `headers` are further lines, each with its end.

        Raises:
            GatewayError: the runtime cannot be reached, or answered with an error.
        """
        return _Open(self._client, path, body, headers, prompt_param)

    async def abort(self, rids: Sequence[str]) -> None:
        """Stop requests the runtime may still be generating; unknown ids are no error there.

        Raises:
            GatewayError: the runtime did not take one; after `ABORTS_AT_ONCE` such the rest is not tried.
        """
        left = iter(rids)
        takers = (self._abort_each(left) for _ in range(min(ABORTS_AT_ONCE, len(rids))))
        for error in await asyncio.gather(*takers, return_exceptions=True):
            if error is not None:
                raise error

    async def _abort_each(self, rids: Iterator[str]) -> None:
        for rid in rids:
            await self._abort(rid)

    async def _abort(self, rid: str) -> None:
        body = orjson.dumps({"rid": rid})
        answer = await self._fetch("POST", "/abort_request", body, timeout_s=self._settings.abort_timeout_s)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise UpstreamProtocolError(f"The runtime refused an abort (status {answer.status}).")

    async def ready(self) -> None:
        """Cheap: touches no scheduler.

        Raises:
            GatewayError: not ready, not reachable (`UpstreamUnavailable`), or silent (`UpstreamTimeout`).
        """
        await self._get("/ready", timeout_s=self._settings.probe_timeout_s)

    async def loads(self) -> RuntimeLoad | None:
        """How busy it is, from shared memory: touches no scheduler. None where it does not say: never an error."""
        try:
            body = await self._get("/v1/loads?include=core", timeout_s=self._settings.probe_timeout_s)
            return RuntimeLoad.parse(json_object(body))
        except (GatewayError, KeyError, TypeError, ValueError):
            return None

    async def describe(self) -> RuntimeInfo:
        """What the runtime says about itself.

        Raises:
            GatewayError: it does not answer, or not in SGLang's words.
        """
        return RuntimeInfo.parse(
            *await asyncio.gather(*map(self._document, ("/server_info", "/model_info", "/v1/models")))
        )

    async def _document(self, path: str) -> dict[str, Any]:
        return json_object(await self._get(path, timeout_s=self._settings.describe_timeout_s))

    async def _get(self, path: str, *, timeout_s: float) -> bytes:
        answer = await self._fetch("GET", path, timeout_s=timeout_s)
        if answer.status != HTTPStatus.OK:
            raise unavailable(f"The runtime is not ready: {path} answers {answer.status}.")
        return answer.body

    async def _fetch(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> http1.Answer:
        try:
            return await self._client.fetch(method, path, body, timeout_s=timeout_s)
        except HttpError as error:
            raise from_http(error) from error


async def _read_some(connection: Connection) -> bytes:
    """An error's body, as far as it is worth reading."""
    body = b""
    try:
        async for chunk in connection.chunks():
            body += chunk
            if len(body) > _ERROR_BODY_BYTES:
                break
    except HttpError:
        return b""
    return body
