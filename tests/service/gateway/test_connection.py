"""Clients that send slowly, too much, nothing, or do not read: a real process, raw sockets."""

import asyncio
import json
import socket
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest
import uvloop

from service.gateway.app import create_app
from service.gateway.drain import Drain
from service.gateway.server import _Server
from service.gateway.settings import Settings
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import counter, until
from tests.service.gateway.scripted_upstream import Release, Script
from tests.service.gateway.test_drain import process

CHAT = "/v1/chat/completions"
LIMITS = {
    "header_timeout_s": 1.5,  # this file's own look-ups are under it too
    "body_timeout_s": 0.4,
    "keep_alive_timeout_s": 1,
    "stall_timeout_s": 4,  # longer than the others: streams wait for these to pass
    "header_limit_bytes": 2048,
}


@pytest.fixture(scope="module")
def limited(session_upstream):
    """A gateway with small limits, in a process of its own."""
    session_upstream.reset()
    with process(session_upstream.url, **LIMITS) as (running, client):
        client.pid = running.pid
        client.headers["connection"] = "close"  # an idle connection does not live long here
        yield client


@pytest.fixture
def gateway(limited, upstream):
    until(lambda: limited.get("/readyz").is_success)
    return limited


@pytest.fixture
def cut(gateway):
    """How many connections were cut since the test began."""
    grew = counter(gateway)
    return lambda reason: grew("aerie_connections_cut_total", reason=reason)


@contextmanager
def connected(client, *, receive_buffer=None):
    with socket.socket() as connection:
        connection.settimeout(20)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((client.base_url.host, client.base_url.port))
        yield connection


def rest(connection):
    """All that comes until the gateway closes the connection."""
    data = b""
    try:
        while chunk := connection.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def answered(connection):
    """The head and the body of the one answer that is left to come."""
    head, _, body = rest(connection).partition(b"\r\n\r\n")
    return head.decode(), json.loads(body)["error"]["code"]


def post(body, *, length=None, path=CHAT):
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def test_a_connection_on_which_nothing_is_said_is_closed_without_a_word(gateway, cut):
    with connected(gateway) as connection:
        assert rest(connection) == b""
    assert cut("header_timeout") == 1


@pytest.mark.parametrize(
    "part", [b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"GET /hea", b"GET /healthz HTTP/1.1\r\nx-a: "]
)
def test_a_head_that_never_ends_is_a_408(gateway, cut, part):
    with connected(gateway) as connection:
        connection.sendall(part)
        head, code = answered(connection)
    assert head.startswith("HTTP/1.1 408 ")
    assert "connection: close" in head
    assert code == "header_timeout"
    assert cut("header_timeout") == 1


def test_a_head_that_trickles_gains_no_time_by_it(gateway, cut):
    with connected(gateway) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")

        def trickle():
            connection.sendall(b"x-a: b\r\n")
            return cut("header_timeout")

        until(trickle, "the end")


def test_empty_lines_are_no_use_of_a_connection(gateway, cut):
    with connected(gateway) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")

        def ends():
            try:
                connection.sendall(b"\r\n")
                connection.setblocking(False)
                return connection.recv(10) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        until(ends, "the end of the idle connection")


def test_an_idle_connection_is_closed_and_counted_as_nobodys_fault(gateway, cut):
    with connected(gateway) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")
    assert cut("header_timeout") == 0


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nx-long: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx-long: " + b"a" * 3000,
        b"GET /" + b"a" * 3000,
        b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nx-long: " + b"a" * 2**20,
    ],
    ids=["whole", "one header", "a path", "many headers", "a mebibyte"],
)
def test_a_head_over_the_limit_is_a_431(gateway, cut, head):
    with connected(gateway) as connection:
        connection.sendall(head)
        head, code = answered(connection)
    assert head.startswith("HTTP/1.1 431 ")
    assert code == "headers_too_large"
    assert cut("header_limit") == 1


@pytest.mark.parametrize("flood", [b"x-a: b\r\n" * 100, b"a" * 1000], ids=["many", "one"])
def test_endless_trailers_are_not_collected(gateway, cut, flood):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(gateway) as connection:
        connection.sendall(head.encode() + b"2\r\n{}\r\n0\r\nx-b: ")

        def goes_on():
            try:
                connection.sendall(flood)
            except OSError:
                return True
            return cut("header_limit")

        until(goes_on, "the end")
    assert cut("header_limit") == 1


def test_a_body_in_tiny_chunks_is_a_body(gateway, upstream, chat):
    body = json.dumps(chat | {"messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connected(gateway) as connection:
        connection.sendall(head.encode() + b"connection: close\r\n\r\n")
        for start in range(0, len(chunks), 1000):
            connection.sendall(chunks[start : start + 1000])
        connection.sendall(b"0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_is_no_part_of_the_next_head(gateway, chat):
    """Two requests in one piece: the first one's body alone is over the headers' limit."""
    large = json.dumps(chat | {"messages": [{"role": "user", "content": "x" * 10_000}]}).encode()
    with connected(gateway) as connection:
        connection.sendall(post(large) + b"GET /healthz HTTP/1.1\r\nhost")
        connection.sendall(b": x\r\n\r\n")
        received = rest(connection)
    assert received.count(b"HTTP/1.1 200 ") == 2, received


def test_what_is_no_http_is_a_400_in_our_format(gateway, cut):
    with connected(gateway) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, code = answered(connection)
    assert head.startswith("HTTP/1.1 400 ")
    assert code == "invalid_request"
    assert cut("malformed") == 1


def test_a_body_that_never_arrives_is_a_408_and_the_end_of_the_connection(gateway, upstream):
    with connected(gateway) as connection:
        connection.sendall(post(b"{", length=10))
        head, code = answered(connection)
    assert head.startswith("HTTP/1.1 408 ")
    assert "connection: close" in head
    assert code == "body_timeout"
    assert upstream.generated == []


def test_a_body_that_nobody_reads_has_a_time_limit_too(gateway, cut):
    with connected(gateway) as connection:
        connection.sendall(post(b"{", length=2**30, path="/nothing"))
        assert rest(connection).startswith(b"HTTP/1.1 404 ")
    assert cut("body_timeout") == 1


def test_a_next_request_that_begins_during_a_stream_does_not_end_it(gateway, upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with connected(gateway) as connection:
        connection.sendall(post(json.dumps(chat | {"stream": True}).encode()) + b"GET /hea")
        with connected(gateway) as other:
            assert rest(other) == b""  # so the time for a head has passed
        release.now.set()
        received = rest(connection)
    assert b"[DONE]" in received
    assert b"HTTP/1.1 408 " in received


def test_a_next_request_whose_body_does_not_come_does_not_end_a_stream(gateway, upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with connected(gateway) as connection:
        connection.sendall(post(json.dumps(chat | {"stream": True}).encode()) + post(b"{", length=10))
        with connected(gateway) as other:
            other.sendall(post(b"{", length=10, path="/nothing"))
            rest(other)  # so the time for a body has passed
        release.now.set()
        received = rest(connection)
    assert b"[DONE]" in received
    assert b"HTTP/1.1 408 " in received


def test_a_client_that_asks_and_does_not_read_is_cut_off(gateway, cut):
    """Each answer is small and complete; together they would fill the gateway's memory."""
    with connected(gateway, receive_buffer=4096) as connection:
        connection.settimeout(0.05)

        def asks_on():
            try:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
            except TimeoutError:
                pass
            except OSError:
                return True
            return bool(cut("not_reading"))

        until(asks_on, "the end")
    assert cut("not_reading") == 1


MIB = 2**20
STREAM_MIB = 256


def test_a_slow_reader_holds_no_memory_and_the_runtime_is_told_to_wait(gateway, upstream, chat, cut):
    sent = []

    def steps():
        for number in range(STREAM_MIB):
            sent.append(number)
            yield wire.chunk("a", "x" * MIB)

    upstream.script = Script(steps=steps())
    before = psutil.Process(gateway.pid).memory_info().rss
    with connected(gateway, receive_buffer=4096) as connection:
        connection.sendall(post(json.dumps(chat | {"stream": True}).encode()))
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        until(lambda: upstream.aborted, "the abort of a stream that nobody reads")
        grown = psutil.Process(gateway.pid).memory_info().rss - before
    assert len(sent) < STREAM_MIB / 2, "sockets hold some tens of MiB; whoever took this much was not told to wait"
    assert grown < 16 * MIB


def test_an_ordinary_client_notices_nothing_of_all_this(gateway, chat, cut):
    with httpx.Client(base_url=gateway.base_url, timeout=20) as client:
        for _ in range(20):
            assert client.post(CHAT, json=chat).is_success
    assert not any(cut(reason) for reason in ("header_timeout", "header_limit", "body_timeout", "not_reading"))


def test_connections_that_come_together_do_not_wait_a_turn_of_the_loop_each(session_upstream):
    """While many streams run a turn takes tens of milliseconds: with one connection in each the last would starve."""

    async def run():
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        for _ in range(16):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        for _ in range(3):
            await asyncio.sleep(0)
        together = len(server.server_state.connections)
        clients.close()
        await server.shutdown([listener])
        return together

    drain, settings = Drain(), Settings(upstream=session_upstream.url)
    server = _Server(settings, create_app(settings, drain), drain)
    with ExitStack() as clients, socket.create_server(("127.0.0.1", 0)) as listener:
        assert uvloop.run(run()) == 16
