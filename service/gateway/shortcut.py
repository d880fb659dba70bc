"""The way to the routes that most requests ask for: found by one look, without what FastAPI does before an endpoint.

Owns that short way and nothing of the routes: they are FastAPI's as well, for the document and for other methods.
FastAPI's way (matching twice, three exit stacks, dependencies) costs a third of a request (docs/gateway.md).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.gateway.errors import GatewayError
from service.gateway.record import RequestRecord
from service.gateway.relay import Surroundings

Endpoint = Callable[[Request, Surroundings, RequestRecord], Awaitable[Response]]


class Shortcut:
    """Innermost: POST requests for one of `endpoints` end here, all others in the app."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._endpoints:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope["state"]
        record: RequestRecord = state["record"]
        record.route = scope["path"]
        try:
            response = await self._endpoints[record.route](Request(scope, receive), state["around"], record)
            await response(scope, receive, send)
        except GatewayError as error:
            record.failure = error
            await error_response(error)(scope, receive, send)


def error_response(error: GatewayError) -> Response:
    """What a request that failed before its answer began is told."""
    return Response(error.body, error.status, error.headers, media_type="application/json")
