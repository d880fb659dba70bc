"""Traces: the client's context always reaches the runtime; spans, where asked for, say what happened and no prompt."""

import http.server
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.gateway import spans, tokenizing, tracing
from service.gateway.tracing import CannotTrace, check_installed, passed_on
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import aerie, asked, gateway_with, receive, until
from tests.service.gateway.scripted_upstream import MODEL, Hold, Script
from tests.service.gateway.test_drain import process

CHAT = "/v1/chat/completions"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CONTEXT = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "tracestate": "vendor=value"}


def sent(upstream, number=0):
    """The trace context that the runtime was told of."""
    names = ("traceparent", "tracestate")
    headers = {name.decode(): value.decode() for name, value in upstream.headers[number].items()}
    return {name: headers[name] for name in names if name in headers}


# Without spans


@pytest.mark.parametrize("stream", [False, True])
def test_a_trace_goes_on_to_the_runtime(gateway, upstream, chat, stream):
    gateway.post(CHAT, json=chat | {"stream": stream}, headers=CONTEXT)
    assert sent(upstream) == CONTEXT


def test_no_trace_is_made_up(gateway, upstream, chat):
    gateway.post(CHAT, json=chat)
    assert sent(upstream) == {}


@pytest.mark.parametrize("value", [b"", b"x" * 513, b"00-\xe9", b"a\tb"])
def test_what_is_no_trace_context_stays_here(value):
    assert passed_on([(b"traceparent", value), (b"x-other", b"1")]) == ""


def test_nothing_of_opentelemetrys_sdk_is_imported_where_it_is_off():
    program = (
        "import sys, service.gateway.server as s; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "opentelemetry.sdk" not in done.stdout


def test_asking_for_spans_without_the_packages_is_one_line(monkeypatch, capsys, upstream):
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(CannotTrace, match="aerie"):
        check_installed()
    monkeypatch.setenv("AERIE_TRACING", "true")
    assert aerie("gateway", "--upstream", upstream.url) == 1
    assert capsys.readouterr().err.startswith("aerie: tracing needs opentelemetry.sdk")


# With spans


@pytest.fixture
def finished(monkeypatch):
    """The spans that have ended, once there are so many."""
    exporter = InMemorySpanExporter()

    def provider():
        made = TracerProvider()
        made.add_span_processor(SimpleSpanProcessor(exporter))
        return made

    monkeypatch.setattr(spans, "provider", provider)

    def some(number):
        until(lambda: len(exporter.get_finished_spans()) >= number, f"{number} spans")
        found = exporter.get_finished_spans()
        assert len(found) == number
        return found

    return some


@contextmanager
def traced(*upstreams, **settings):
    urls = ",".join(upstream.url for upstream in upstreams)
    with gateway_with(upstream=urls, tracing=True, **settings) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_and_so_is_its_attempt(finished, upstream, chat, stream):
    with traced(upstream) as client:
        client.post(CHAT, json=chat | {"stream": stream}, headers=CONTEXT)
        attempt, request = finished(2)
    assert (request.name, request.kind) == (f"POST {CHAT}", SpanKind.SERVER)
    assert (attempt.name, attempt.kind) == (f"chat {MODEL}", SpanKind.CLIENT)
    assert request.status.status_code is attempt.status.status_code is StatusCode.UNSET
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert attempt.parent.span_id == request.context.span_id
    assert sent(upstream)["traceparent"] == f"00-{TRACE_ID}-{attempt.context.span_id:016x}-01"
    assert sent(upstream)["tracestate"] == "vendor=value"
    generation = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sglang",
        "gen_ai.request.model": MODEL,
        "gen_ai.usage.input_tokens": 34,
        "gen_ai.usage.output_tokens": 11,
    }
    assert generation.items() <= request.attributes.items()
    assert generation.items() <= attempt.attributes.items()
    told = {"http.route": CHAT, "http.response.status_code": 200, "aerie.outcome": "ok", "aerie.reason": "only_pool"}
    assert told.items() <= request.attributes.items()
    port = int(upstream.url.rpartition(":")[2])
    assert {"server.address": "127.0.0.1", "server.port": port}.items() <= attempt.attributes.items()
    assert request.attributes["aerie.acceptance_length"] == pytest.approx(1 + 4 / 6)


def test_spans_hold_no_prompt_no_answer_and_no_key(finished, upstream, chat):
    with traced(upstream) as client:
        client.post(f"{CHAT}?token=sk-secret", json=chat, headers={"authorization": "Bearer sk-secret"})
        text = "".join(span.to_json() for span in finished(2))
    assert not [word for word in ("colours", "Red", "sk-secret", "Bearer") if word in text]


def test_every_attempt_is_a_span_of_its_own(finished, runtimes, chat):
    dying = Script(status=503, body=b'{"message": "Server is shutting down"}')
    with traced(*runtimes[:2]) as client:
        until(lambda: client.get("/metrics").text.count("aerie_upstream_up{") == 2)
        until(lambda: '"not_ready"' not in client.get("/readyz").text)
        for runtime in runtimes[:2]:
            runtime.script = dying
        assert client.post(CHAT, json=chat).status_code == 503
        first, second, request = finished(3)
    assert first.attributes["server.port"] != second.attributes["server.port"]
    assert first.parent.span_id == second.parent.span_id == request.context.span_id
    assert {span.status.status_code for span in (first, second, request)} == {StatusCode.ERROR}
    assert {span.attributes["error.type"] for span in (first, second, request)} == {"upstream_unavailable"}


def test_a_client_that_leaves_ends_its_spans(finished, upstream, chat):
    upstream.script = Script(steps=[wire.chunk("a", "Red"), Hold()])
    with traced(upstream) as client:
        with asked(client, CHAT, chat | {"stream": True}) as connection:
            receive(connection, b"Red")
        attempt, request = finished(2)
    assert attempt.attributes["error.type"] == "cancelled"
    assert request.attributes["error.type"] == "client_closed_request"
    assert request.attributes["aerie.outcome"] == "cancelled"


def test_a_refused_request_is_no_error_of_ours_and_operators_routes_are_not_traced(finished, upstream):
    with traced(upstream) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        assert client.post(CHAT, json={}).status_code == 400
        (request,) = finished(1)
    assert request.status.status_code is StatusCode.UNSET
    assert request.attributes["http.response.status_code"] == 400
    assert request.attributes["error.type"]


def test_a_bug_of_ours_is_an_error(finished, upstream, monkeypatch):
    async def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(tokenizing, "ask", broken)
    with traced(upstream) as client:
        assert client.post("/tokenize", json={"model": MODEL, "prompt": "hello"}).status_code == 500
        (request,) = finished(1)
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "internal_error"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_question_is_called_what_it_is(finished, upstream, prefix):
    with traced(upstream) as client:
        assert client.post(f"{prefix}/tokenize", json={"model": MODEL, "prompt": "hello"}).is_success
        assert {span.attributes["gen_ai.operation.name"] for span in finished(2)} == {"tokenize"}


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_spans_arrive_at_a_real_collector_with_the_last_word(collector, upstream, chat, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    with process(upstream.url, tracing=True, workers=2) as (running, client):
        assert client.post(CHAT, json=chat, headers=CONTEXT).is_success
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    ((path, sent_),) = collector.seen
    assert path == "/v1/traces"
    (resource,) = sent_.resource_spans
    assert "aerie-gateway" in str(resource.resource)
    found = [span for scope in resource.scope_spans for span in scope.spans]
    assert sorted(span.name for span in found) == [f"POST {CHAT}", f"chat {MODEL}"]
    assert {span.trace_id.hex() for span in found} == {TRACE_ID}


def test_the_services_name_is_the_operators_if_it_is_given(monkeypatch):
    for variable, value, name in (
        ("OTEL_SERVICE_NAME", "mine", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ours,team=a", "ours"),
        ("OTEL_SERVICE_NAME", "", "aerie-gateway"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            made = spans.provider()
        assert made.resource.attributes["service.name"] == name
        made.shutdown()
