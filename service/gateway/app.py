"""The application: its parts, put together.

Owns the factory, the lifespan and how errors become answers. Refuses to own a process (server.py).
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib import import_module
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.gateway import cors, docs, health, openapi, routes, status_page, tokenizing, tracing
from service.gateway.board import Shared
from service.gateway.config import ConfigFile, GatewayConfig
from service.gateway.dependencies import State
from service.gateway.drain import Drain
from service.gateway.errors import GatewayError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from service.gateway.fleet import Fleet
from service.gateway.guard import Guard
from service.gateway.metrics import Metrics
from service.gateway.middleware import BoundedBody, Observe
from service.gateway.relay import Surroundings
from service.gateway.reload import InvalidFiles
from service.gateway.settings import Settings
from service.gateway.shortcut import Shortcut, error_response
from service.gateway.status_errors import RecentErrors
from service.gateway.tasks import running
from service.gateway.watchers import Watchers

# FastAPI's own: it would log messages of errors, which may hold prompts, and looks for providers at every request
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}

SUCCESSOR_PATIENCE_S = 2.0
"""A worker knows its runtimes before it takes connections: those that wait for a dead one's successor get no 503."""

_log = logging.getLogger("aerie.app")

_Layer = Callable[[ASGIApp], ASGIApp]
_Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[State]]


def create_app(settings: Settings, drain: Drain | None = None, shared: Shared | None = None) -> FastAPI:
    """A gateway; whoever owns the process passes the drain it will begin, and calls `app.state.reload` when told to.

    One of several workers is given what it shares with the others.

    Raises:
        InvalidFiles: a file that the settings name cannot be used.
        CannotTrace: tracing is asked for and not installed.
    """
    metrics = Metrics()
    file, guard = ConfigFile(settings, metrics), Guard(settings.keys, metrics)
    if shared is not None:
        shared.join(metrics, guard.limiter)
    fleet = Fleet(file.value, settings, metrics)
    watchers = Watchers(fleet, metrics)
    file.follow(partial(_adopt, fleet, watchers))
    drain, errors = drain or Drain(), RecentErrors()
    around = Surroundings(settings, fleet, guard, drain, metrics, watchers)
    app = _App(
        _layers(settings, metrics, errors, drain),
        title="Aerie gateway",
        summary="OpenAI's API over SGLang with EAGLE-3 speculative decoding",
        lifespan=_lifespan(around, file, shared),
        openapi_url=docs.DOCUMENT_URL if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.state.metrics = metrics
    app.state.reload = partial(_reload, guard, file, fleet)
    app.include_router(routes.router)
    app.include_router(tokenizing.router)
    app.include_router(health.router)
    if settings.docs:
        docs.add_to(app)
    if settings.status_page:
        status_page.add_to(app, around, errors)
    _add_error_handlers(app)
    openapi.describe(app)
    return app


class _App(FastAPI):
    """FastAPI inside our own layers: most requests end in the innermost of these, and never see FastAPI's."""

    def __init__(self, layers: Sequence[_Layer], **settings: Any) -> None:  # noqa: ANN401 - FastAPI's
        super().__init__(**settings)
        self._layers = layers

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette calls this once."""
        app = super().build_middleware_stack()
        for layer in self._layers:
            app = layer(app)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request goes straight to the layers: what FastAPI would look for before them is switched off."""
        if scope["type"] != "http" or self.middleware_stack is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def _layers(settings: Settings, metrics: Metrics, errors: RecentErrors, drain: Drain) -> list[_Layer]:
    """The innermost first."""
    layers: list[_Layer] = [
        partial(Shortcut, endpoints=routes.GENERATING),
        partial(BoundedBody, limit_bytes=settings.body_limit_bytes, timeout_s=settings.body_timeout_s),
    ]
    if settings.cors_origins:
        layers.append(partial(CORSMiddleware, **cors.options(settings.cors_origins)))
    if settings.tracing:
        tracing.check_installed()
        layers.append(_spans().Traced)
    return [*layers, partial(Observe, metrics=metrics, errors=errors, drain=drain)]


def _spans() -> ModuleType:
    """Imported where it is needed: its packages may be missing elsewhere."""
    return import_module("service.gateway.spans")


def _adopt(fleet: Fleet, watchers: Watchers, config: GatewayConfig) -> None:
    """The fleet may refuse it, the watchers never do."""
    fleet.adopt(config)
    watchers.adopt(config)


def _reload(guard: Guard, file: ConfigFile, fleet: Fleet) -> None:
    guard.reload()
    file.reload()
    try:
        fleet.calibrate()
    except InvalidFiles as error:
        _log.error("calibration not read again, the old one stays", extra={"fields": {"reason": str(error)}})


def _lifespan(around: Surroundings, file: ConfigFile, shared: Shared | None) -> _Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with AsyncExitStack() as lives:
            await lives.enter_async_context(around.fleet)
            await lives.enter_async_context(around.watchers)
            await lives.enter_async_context(running(around.guard.watch()))
            await lives.enter_async_context(running(file.watch()))
            if shared is not None:
                await lives.enter_async_context(running(shared.exchange_for_ever()))
                await around.fleet.settle(SUCCESSOR_PATIENCE_S)
            state: State = {"around": around}
            if around.settings.tracing:
                state["tracer"] = await lives.enter_async_context(_spans().collecting())
            yield state

    return lifespan


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(GatewayError)
    async def of_ours(request: Request, error: GatewayError) -> Response:
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        return _answer(request, _from_starlette(error))

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"][1:])) or None
        return _answer(request, InvalidRequest(first["msg"], param=param, code="invalid_value"))

    @app.exception_handler(Exception)
    async def of_a_bug(request: Request, _: Exception) -> Response:
        return _answer(request, InternalError("The gateway failed on this request."))  # the middleware logs it


def _answer(request: Request, error: GatewayError) -> Response:
    request.state.record.failure = error
    return error_response(error)


def _from_starlette(error: HTTPException) -> GatewayError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("There is no such route.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed("This route does not take this method.", allow=(error.headers or {}).get("Allow"))
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return InvalidRequest(error.detail)
    return InternalError("The gateway failed on this request.")
