"""The HTTP client against a server that answers with the bytes a test gives it."""

import asyncio
import socket
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import http1
from service.gateway.http1 import (
    CannotConnect,
    Connection,
    CutShort,
    HttpClient,
    HttpError,
    NoAnswer,
    NotHttp,
    TimedOut,
)

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"
CLOSE = None
WHOLE = {
    "with a length": [LENGTH + b"hello"],
    "in pieces": [LENGTH[:9], LENGTH[9:] + b"he", b"llo"],
    "chunked": [CHUNKED + b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"],
    "until the connection ends": [UNTIL_THE_END + b"he", b"llo", CLOSE],
    "after an interim answer": [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", LENGTH + b"hello"],
}


class Server:
    """Answers every request with the next of `answers`; counts connections, keeps what it was sent."""

    def __init__(self, answers):
        self.answers, self.connections, self.requests, self.gone = list(answers), 0, [], asyncio.Event()

    async def __call__(self, reader, writer):
        self.connections += 1
        while head := await reader.read(2**16):
            self.requests.append(head)
            for data in self.answers.pop(0):
                if data is CLOSE:
                    writer.close()
                    return
                writer.write(data)
                await asyncio.sleep(0.002)
        self.gone.set()
        writer.close()


@asynccontextmanager
async def before(*answers):
    server = Server(answers)
    listener = await asyncio.start_server(server, "127.0.0.1")
    client = HttpClient("http://{}:{}/base".format(*listener.sockets[0].getsockname()), connect_timeout_s=5)
    try:
        yield client, server
    finally:
        client.close()
        listener.close()
        await asyncio.sleep(0.01)


async def ask(client):
    return tuple(await client.fetch("POST", "/x", b"{}", timeout_s=5))


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
def test_an_answer_is_whole_however_its_end_is_told(answer):
    async def run():
        async with before(answer) as (client, _):
            assert await ask(client) == (200, b"hello")

    uvloop.run(run())


def test_a_request_says_where_it_goes_and_how_long_it_is():
    async def run():
        async with before([LENGTH + b"hello"]) as (client, server):
            await ask(client)
        head, body = server.requests[0].split(b"\r\n\r\n")
        assert head.startswith(b"POST /base/x HTTP/1.1\r\nhost: 127.0.0.1:")
        assert head.endswith(b"content-length: 2")
        assert body == b"{}"

    uvloop.run(run())


@given(st.lists(st.integers(0, 90)))
def test_an_answer_does_not_depend_on_how_its_bytes_arrive(cuts):
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"

    async def run():
        connection = Connection()
        connection.connection_made(_Nowhere())
        sending = asyncio.create_task(connection.send(b"", b""))
        await asyncio.sleep(0)
        for start, end in pairwise([0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]):
            connection.data_received(stream[start:end])
        await sending
        assert (connection.status, await connection.read(), connection.usable) == (200, b"hello", True)

    asyncio.run(run())


class _Nowhere(asyncio.Transport):
    def writelines(self, _):
        pass


BROKEN = {
    "no answer": ([CLOSE], NoAnswer),
    "half a head": ([LENGTH[:20], CLOSE], NoAnswer),
    "half a body": ([LENGTH + b"he", CLOSE], CutShort),
    "half a chunk": ([CHUNKED + b"5\r\nhe", CLOSE], CutShort),
    "no last chunk": ([CHUNKED + b"2\r\nhe\r\n", CLOSE], CutShort),
    "another protocol": ([b"SSH-2.0-OpenSSH\r\n"], NotHttp),
    "another protocol, by agreement": ([b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi"], NotHttp),
    "a chunk without a size": ([CHUNKED + b"x\r\n"], NotHttp),
}


@pytest.mark.parametrize(("answer", "error"), BROKEN.values(), ids=BROKEN)
def test_a_break_is_told_by_where_it_happened(answer, error):
    async def run():
        async with before(answer) as (client, _):
            with pytest.raises(HttpError) as raised:
                await ask(client)
            assert type(raised.value) is error

    uvloop.run(run())


def test_what_arrived_before_a_break_is_passed_on():
    async def run():
        async with before([LENGTH + b"he", CLOSE]) as (client, _):
            connection = await client.open("POST", "/x")
            await asyncio.sleep(0.02)
            chunks = connection.chunks()
            assert await anext(chunks) == b"he"
            with pytest.raises(CutShort):
                await anext(chunks)
            client.leave(connection)

    uvloop.run(run())


def test_nobody_there_and_nobody_who_speaks_tls_in_time_cannot_be_connected_to():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url in (f"https://127.0.0.1:{port}", "http://127.0.0.1:1"):
            client = HttpClient(url, connect_timeout_s=0.1)
            with pytest.raises(CannotConnect):
                uvloop.run(client.fetch("GET", "/", timeout_s=5))


def test_an_answer_that_is_late_has_timed_out_and_is_not_waited_for():
    async def run():
        async with before([LENGTH + b"he"]) as (client, server):
            with pytest.raises(TimedOut):
                await client.fetch("GET", "/", timeout_s=0.05)
            await asyncio.wait_for(server.gone.wait(), 5)

    uvloop.run(run())


def test_a_connection_is_used_again():
    async def run():
        async with before(*[[LENGTH + b"hello"]] * 3) as (client, server):
            for _ in range(3):
                await ask(client)
            assert server.connections == 1

    uvloop.run(run())


CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize("first", [[CLOSING], WHOLE["until the connection ends"], [LENGTH + b"hello" + LENGTH]])
def test_a_connection_is_not_used_again_when_it_ends_or_says_what_nobody_asked_for(first):
    async def run():
        async with before(first, [LENGTH + b"again"]) as (client, server):
            try:
                assert await ask(client) == (200, b"hello")
            except NotHttp:
                assert first == [LENGTH + b"hello" + LENGTH]
            assert await ask(client) == (200, b"again")
            assert server.connections == 2

    uvloop.run(run())


def test_a_connection_whose_end_is_announced_is_not_used_again():
    async def run():
        connection = Connection()
        connection.connection_made(_Nowhere())
        sending = asyncio.create_task(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(LENGTH + b"hello")
        await sending
        assert await connection.read() == b"hello"
        assert connection.usable
        assert not connection.eof_received()  # the transport closes itself, in a later step of the loop
        assert not connection.usable

    asyncio.run(run())


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch):
    async def run():
        async with before([LENGTH + b"hello"], [LENGTH + b"again"]) as (client, server):
            await ask(client)
            monkeypatch.setattr(http1, "KEEP_ALIVE_S", 0)
            await ask(client)
            assert server.connections == 2

    uvloop.run(run())


def test_what_was_not_read_of_an_answer_is_not_in_the_next():
    async def run():
        async with before([LENGTH + b"hello"], [LENGTH + b"again"]) as (client, server):
            client.leave(await client.open("POST", "/x"))
            assert await ask(client) == (200, b"again")
            assert server.connections == 2

    uvloop.run(run())


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_answer_that_is_left_or_given_up_ends_its_connection(cancelled):
    async def run():
        async with before([] if cancelled else [LENGTH + b"he"]) as (client, server):
            opening = asyncio.create_task(client.open("POST", "/x"))
            if cancelled:
                await asyncio.sleep(0.05)
                opening.cancel()
                await asyncio.wait([opening])
            else:
                client.leave(await opening)
            await asyncio.wait_for(server.gone.wait(), 5)

    uvloop.run(run())


def test_an_answer_that_nobody_reads_makes_the_upstream_wait():
    async def run():
        written = 0

        async def flood(reader, writer):
            nonlocal written
            await reader.read(2**16)
            writer.write(UNTIL_THE_END)
            while not writer.is_closing():
                writer.write(bytes(2**16))
                written += 2**16
                await writer.drain()

        listener = await asyncio.start_server(flood, "127.0.0.1")
        client = HttpClient("http://{}:{}".format(*listener.sockets[0].getsockname()), connect_timeout_s=5)
        connection = await client.open("GET", "/")
        await asyncio.sleep(0.3)
        before_reading = written
        await asyncio.sleep(0.1)
        assert written == before_reading < 64 * 2**20
        chunks = connection.chunks()
        while written == before_reading:
            await anext(chunks)
        client.leave(connection)
        listener.close()

    uvloop.run(run())


def test_small_writes_are_not_held_back():
    async def run():
        async with before([LENGTH + b"hello"]) as (client, _):
            connection = await client.open("GET", "/")
            used = connection._transport.get_extra_info("socket")
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await connection.read()
            client.leave(connection)

    uvloop.run(run())
