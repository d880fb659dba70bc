"""An answer's bytes on its connection: one write for a whole answer, a framing that fits, nothing that ASGI forbids."""

import asyncio
import logging

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl

from service.gateway.cycle import Cycle

LENGTH = (b"content-length", b"4")


class Transport:
    """What reached the socket, an entry for each system call."""

    def __init__(self):
        self.calls = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.calls += [data] if data else []

    def close(self):
        self.closed = True


def started(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def sent(*messages, method="POST", keep_alive=True):
    """The transport after these messages, and the cycle."""

    async def run():
        transport = Transport()
        flow = FlowControl(transport)
        logger = logging.getLogger("test")
        answered = []
        cycle = Cycle(
            {"method": method},
            transport,
            flow,
            logger,
            logger,
            False,
            [(b"date", b"now")],
            asyncio.Event(),
            False,
            keep_alive,
            lambda: answered.append(True),
        )
        for message in messages:
            await cycle.send(message)
        assert answered == [True] * cycle.response_complete
        return transport, cycle

    return asyncio.run(run())


def parsed(data, method="POST"):
    """The answer as a client reads it, and whether it may ask again."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    answer, content = client.next_event(), b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        content += event.data
    return answer.status_code, dict(answer.headers), content, client.their_state is h11.DONE


def test_a_whole_answer_is_one_write():
    transport, _ = sent(started(200, LENGTH), body(b"text"))
    assert transport.calls == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 4\r\n\r\ntext"]


def test_a_stream_is_one_write_for_each_of_its_messages_the_head_with_the_first():
    transport, cycle = sent(started(), body(b"one", more=True), body(b"two", more=True))
    assert not cycle.response_complete
    assert len(transport.calls) == 2
    assert parsed(b"".join(transport.calls) + b"0\r\n\r\n")[2] == b"onetwo"


@given(st.lists(st.binary(max_size=20), min_size=1), st.booleans())
def test_a_client_reads_what_was_sent_however_it_was_cut(pieces, tells_length):
    whole = b"".join(pieces)
    headers = [(b"content-length", str(len(whole)).encode())] if tells_length else []
    messages = [*(body(piece, more=True) for piece in pieces[:-1]), body(pieces[-1])]
    transport, _ = sent(started(200, *headers), *messages)
    status, told, content, again = parsed(b"".join(transport.calls))
    assert (status, content, again) == (200, whole, True)
    assert told[b"date"] == b"now"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_not_chunked(status):
    transport, _ = sent(started(status), body())
    assert b"transfer-encoding" not in transport.calls[0]
    assert transport.calls[0].endswith(b"\r\n\r\n")


def test_the_answer_to_head_tells_the_length_and_has_no_body():
    transport, cycle = sent(started(200, LENGTH), body(b"text"), method="HEAD")
    assert transport.calls == [b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 4\r\n\r\n"]
    assert cycle.response_complete


def test_a_connections_last_answer_says_so_once():
    by_client, _ = sent(started(200, LENGTH), body(b"text"), keep_alive=False)
    by_us, _ = sent(started(200, LENGTH, (b"connection", b"Close")), body(b"text"))
    for transport in (by_client, by_us):
        assert transport.closed
        assert transport.calls[0].lower().count(b"connection: close\r\n") == 1


@pytest.mark.parametrize(
    "messages",
    [
        [body()],
        [started(), started()],
        [started(200, LENGTH), body(b"text"), body(b"more")],
        [started(200, LENGTH), body(b"longer")],
        [started(200, LENGTH), body(b"te")],
        [started(200, (b"x-a", b"1\r\nx-b: 2"))],
    ],
)
def test_what_would_break_the_framing_is_refused_before_it_is_written(messages):
    with pytest.raises(RuntimeError):
        sent(*messages)


def test_nothing_is_written_for_a_client_that_has_left():
    async def run():
        transport = Transport()
        logger = logging.getLogger("test")
        flow = FlowControl(transport)
        cycle = Cycle({}, transport, flow, logger, logger, False, [], asyncio.Event(), False, True, lambda: None)
        cycle.disconnected = True
        await cycle.send(started())
        await cycle.send(body(b"text"))
        return transport.calls

    assert asyncio.run(run()) == []
