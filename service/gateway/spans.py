"""OpenTelemetry spans: one for a request, one for each attempt at a replica.

Owns what a span says, in the words of OpenTelemetry's HTTP and GenAI conventions, never a prompt, an answer or a key.
Refuses to own where spans go, which OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, ...). Imported only when switched on: its packages are those of `aerie[otel]`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.gateway.errors import GatewayError, InternalError
from service.gateway.middleware import QUIET_ROUTES
from service.gateway.record import Outcome, RequestRecord

SERVICE = "aerie-gateway"

_OPERATIONS = {"/v1/completions": "text_completion", "/v1/tokenize": "tokenize", "/v1/detokenize": "detokenize"}

_propagator = TraceContextTextMapPropagator()


def provider() -> TracerProvider:
    """Spans are collected by a thread and sent by OTLP over HTTP."""
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    made = TracerProvider(resource=resource)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


@asynccontextmanager
async def collecting() -> AsyncIterator[Tracer]:
    """Inside this context spans are sent; its end waits for the last ones."""
    made = provider()
    try:
        yield made.get_tracer(SERVICE)
    finally:
        await asyncio.to_thread(made.shutdown)


class Traced:
    """Middleware: every request in a span, a child of the client's; operators' routes are left out.

    The tracer is in the lifespan's state: its thread must not exist before a worker's process does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass."""
        if scope["type"] != "http" or scope["path"] in QUIET_ROUTES:
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        above = _propagator.extract(dict(Headers(scope=scope)))
        tracer: Tracer = scope["state"]["tracer"]
        span = tracer.start_span(record.method, context=above, kind=SpanKind.SERVER)
        record.spans = Spans(tracer, set_span_in_context(span, above))
        try:
            await self._app(scope, receive, send)
        except Exception:
            record.failure = InternalError("The gateway failed on this request.")
            raise
        finally:
            record.route = getattr(scope.get("route"), "path", record.route)
            span.update_name(f"{record.method} {record.route}")
            _describe(span, _of_request(record) | _of_generation(record, record.route))
            _mark(span, record.failure.code if record.failure else None, is_error=record.outcome is Outcome.ERROR)
            span.end()


class Spans:
    """Of the attempts of one request."""

    def __init__(self, tracer: Tracer, parent: Context) -> None:
        self._tracer = tracer
        self._parent = parent

    @contextmanager
    def attempt(self, record: RequestRecord, url: str, path: str) -> Iterator[str]:
        """Around one attempt; gives the header lines that tell the replica of its span."""
        name = f"{_operation(path)} {record.model}"
        span = self._tracer.start_span(name, context=self._parent, kind=SpanKind.CLIENT)
        lines: dict[str, str] = {}
        _propagator.inject(lines, set_span_in_context(span, self._parent))
        try:
            yield "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        except GatewayError as error:
            _mark(span, error.code, is_error=True)
            raise
        except asyncio.CancelledError:  # the client left, or was told that it had waited long enough
            _mark(span, "cancelled", is_error=True)
            raise
        finally:
            address = urlsplit(url)
            where = {"server.address": address.hostname, "server.port": address.port, "aerie.pool": record.pool}
            _describe(span, where | _of_generation(record, path))
            span.end()


def _of_request(record: RequestRecord) -> dict[str, Any]:
    return {
        "http.request.method": record.method,
        "http.route": record.route,
        "url.path": record.path,
        "http.response.status_code": record.status or None,
        "aerie.request_id": record.request_id,
        "aerie.outcome": record.outcome.value,
        "aerie.pool": record.pool,
        "aerie.reason": record.reason,
        "aerie.queued_s": record.queued_s if record.pool else None,
        "aerie.time_to_first_token_s": record.time_to_first_token_s,
    }


def _of_generation(record: RequestRecord, path: str) -> dict[str, Any]:
    if record.model is None:
        return {}
    return {
        "gen_ai.operation.name": _operation(path),
        "gen_ai.provider.name": "sglang",
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.usage and record.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": record.usage and record.usage.completion_tokens,
        "aerie.acceptance_length": record.speculation and record.speculation.acceptance_length,
    }


def _operation(path: str) -> str:
    return _OPERATIONS.get("/v1" + path.removeprefix("/v1"), "chat")


def _describe(span: Span, attributes: Mapping[str, Any]) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _mark(span: Span, failure: str | None, *, is_error: bool) -> None:
    if failure is not None:
        span.set_attribute("error.type", failure)
    if is_error:
        span.set_status(StatusCode.ERROR)
