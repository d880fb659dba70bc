"""The application: its parts, put together.

Owns the factory, the lifespan and how errors become answers. Refuses to own a process (server.py).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.gateway import health, openapi, routes
from service.gateway.dependencies import State
from service.gateway.drain import Drain
from service.gateway.errors import GatewayError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from service.gateway.metrics import Metrics
from service.gateway.middleware import BoundedBody, Observe
from service.gateway.relay import Surroundings
from service.gateway.replica import Replica
from service.gateway.settings import Settings

_Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[State]]


def create_app(settings: Settings, drain: Drain | None = None) -> FastAPI:
    """A gateway in front of `settings.upstream`; whoever owns the process passes the drain it will begin."""
    metrics = Metrics()
    app = FastAPI(
        title="Aerie gateway",
        summary="OpenAI's API over SGLang with EAGLE-3 speculative decoding",
        lifespan=_lifespan(settings, drain or Drain(), metrics),
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes.router)
    app.include_router(health.router)
    _add_error_handlers(app)
    app.add_middleware(BoundedBody, limit_bytes=settings.body_limit_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(Observe, metrics=metrics)  # added last, so it is the outermost
    openapi.describe(app)
    return app


def _lifespan(settings: Settings, drain: Drain, metrics: Metrics) -> _Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        replica = Replica(settings, metrics)
        watch = asyncio.create_task(replica.watch())
        try:
            yield {"around": Surroundings(settings=settings, replica=replica, drain=drain, metrics=metrics)}
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            await replica.client.close()

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


def _answer(request: Request, error: GatewayError) -> Response:
    request.state.record.failure = error
    return Response(error.body, error.status, error.headers, media_type="application/json")


def _from_starlette(error: HTTPException) -> GatewayError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("There is no such route.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed("This route does not take this method.", allow=(error.headers or {}).get("Allow"))
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return InvalidRequest(error.detail)
    return InternalError("The gateway failed on this request.")
