"""One scripted runtime and one gateway for the session; tests that need other settings start a gateway of their own."""

import json
import logging
import signal
import socket
import time
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.cli import main
from service.gateway.app import create_app
from service.gateway.server import protocol
from service.gateway.settings import Settings
from tests.service.gateway.scripted_upstream import MODEL, ScriptedUpstream, served

DEADLINE_S = 20


def until(condition, what="the condition"):
    """Wait for something that must become true; the deadline only bounds a failure."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not become true"
        time.sleep(0.01)
    return result


def gateway_before(upstream_url, **settings):
    """A gateway before one runtime, ready, as a client."""
    return gateway_with(upstream=upstream_url, **settings)


@contextmanager
def gateway_with(**settings):
    """A gateway on a port of its own, ready, as a client."""
    settings = Settings(**{"probe_interval_s": 0.05} | settings)
    app = create_app(settings)
    with (
        served(app, lifespan="on", http=protocol(settings, app)) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        until(lambda: client.get("/readyz").is_success, "the gateway's readiness")
        yield client


@contextmanager
def asked(client, path, body):
    """A connection on which this was asked; its client leaves with the context, whatever has come by then."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(DEADLINE_S)
        connection.sendall(head.encode() + content)
        yield connection


def receive(connection, awaited):
    """Read until this has come."""
    data = b""
    while awaited not in data:
        more = connection.recv(65536)
        assert more, data
        data += more


def aerie(*arguments):
    """The exit status of a command that ends by itself; this process's logs and signals stay as they are."""
    root = logging.getLogger()
    handlers, level, on_hangup = root.handlers[:], root.level, signal.getsignal(signal.SIGHUP)
    try:
        return main(arguments)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        signal.signal(signal.SIGHUP, on_hangup)


@pytest.fixture(scope="session")
def session_upstream():
    upstream = ScriptedUpstream()
    with served(upstream) as url:
        upstream.url = url
        yield upstream


@pytest.fixture(scope="module")
def four_runtimes():
    with ExitStack() as stack:
        runtimes = [ScriptedUpstream() for _ in range(4)]
        for runtime in runtimes:
            runtime.url = stack.enter_context(served(runtime))
        yield runtimes


@pytest.fixture
def runtimes(four_runtimes):
    """Four of them, for tests of more than one."""
    for runtime in four_runtimes:
        runtime.reset()
    yield four_runtimes
    for runtime in four_runtimes:
        runtime.reset()


@pytest.fixture(scope="session")
def session_gateway(session_upstream):
    with gateway_before(
        session_upstream.url, stall_timeout_s=5, response_timeout_s=10, body_limit_bytes=2**20
    ) as client:
        yield client


@pytest.fixture
def upstream(session_upstream):
    session_upstream.reset()
    yield session_upstream
    session_upstream.reset()


@pytest.fixture
def gateway(session_gateway, upstream):
    until(lambda: session_gateway.get("/readyz").is_success)
    yield session_gateway
    until(lambda: samples(session_gateway)[key("aerie_requests_in_flight", {})] == 0)


@pytest.fixture
def chat():
    return {"model": MODEL, "messages": [{"role": "user", "content": "Name two colours."}]}


@pytest.fixture
def growth(gateway):
    """`growth(name, **labels)`: how much the series with these labels, and any others, grew since the test began."""
    return counter(gateway)


def counter(client):
    before = samples(client)
    return lambda name, **labels: summed(samples(client), name, labels) - summed(before, name, labels)


def summed(found, name, labels):
    wanted = set(labels.items())
    return sum(value for (series, its), value in found.items() if series == name and wanted <= set(its))


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {key(sample.name, sample.labels): sample.value for family in families for sample in family.samples}


def key(name, labels):
    return name, tuple(sorted(labels.items()))


def events(response):
    """The data of each event of a finished stream."""
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
