"""The application: its parts, put together.

Owns the factory, the lifespan and how errors become answers. Refuses to own a process (server.py).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.gateway import health, openapi, routes
from service.gateway.config import read_config
from service.gateway.dependencies import State
from service.gateway.drain import Drain
from service.gateway.errors import GatewayError, InternalError, InvalidRequest, MethodNotAllowed, NotFound
from service.gateway.fleet import Fleet
from service.gateway.guard import Guard
from service.gateway.metrics import Metrics
from service.gateway.middleware import BoundedBody, Observe
from service.gateway.relay import Surroundings
from service.gateway.settings import Settings
from service.gateway.tasks import running

_Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[State]]


def create_app(settings: Settings, drain: Drain | None = None) -> FastAPI:
    """A gateway; whoever owns the process passes the drain it will begin, and reloads `app.state.guard` when told to.

    Raises:
        InvalidFiles: a file that the settings name cannot be used.
    """
    metrics = Metrics()
    fleet, guard = Fleet(read_config(settings), settings, metrics), Guard(settings.keys, metrics)
    around = Surroundings(settings, fleet, guard, drain or Drain(), metrics)
    app = FastAPI(
        title="Aerie gateway",
        summary="OpenAI's API over SGLang with EAGLE-3 speculative decoding",
        lifespan=_lifespan(around),
        docs_url=None,
        redoc_url=None,
    )
    app.state.guard = guard
    app.include_router(routes.router)
    app.include_router(health.router)
    _add_error_handlers(app)
    app.add_middleware(BoundedBody, limit_bytes=settings.body_limit_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(Observe, metrics=metrics)  # added last, so it is the outermost
    openapi.describe(app)
    return app


def _lifespan(around: Surroundings) -> _Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with around.fleet, running(around.guard.watch()):
            yield {"around": around}

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
