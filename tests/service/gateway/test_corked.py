"""The corked transport: nothing is lost, nothing is reordered, and a head waits for no more than a turn of the loop."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from service.gateway.corked import CorkedTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorder:
    """What reached the socket, a list for each system call."""

    def __init__(self):
        self.calls = []

    def write(self, data):
        self.calls.append([data])

    def writelines(self, pieces):
        self.calls.append(list(pieces))

    def close(self):
        self.calls.append("closed")

    def write_eof(self):
        self.calls.append("eof")

    def get_write_buffer_size(self):
        return 3

    def is_closing(self):
        return False


def corked(work):
    """What reached the socket while `work(transport)` ran in a loop, and after the turn that it ended in."""

    async def run():
        recorder = Recorder()
        await work(CorkedTransport(recorder))
        during = list(recorder.calls)
        await asyncio.sleep(0)
        return during, recorder.calls

    return asyncio.run(run())


def test_a_head_goes_with_the_first_of_its_body():
    async def work(transport):
        transport.write(HEAD)
        transport.write(b"body")
        transport.write(b"more")

    assert corked(work)[0] == [[HEAD, b"body"], [b"more"]]


def test_a_head_that_nothing_follows_waits_for_the_end_of_the_turn_only():
    async def work(transport):
        transport.write(HEAD)
        assert transport.get_write_buffer_size() == len(HEAD) + 3
        assert not transport.is_closing()

    assert corked(work) == ([], [[HEAD]])


def test_what_ends_a_connection_comes_after_what_was_written():
    async def close(transport):
        transport.write(HEAD)
        transport.close()

    async def end(transport):
        transport.write(HEAD)
        transport.write_eof()

    assert corked(close)[1] == [[HEAD], "closed"]
    assert corked(end)[1] == [[HEAD], "eof"]


@given(st.lists(st.sampled_from([HEAD, b"", b"a", b"HTTP/1.1 100 Continue\r\n\r\n", None])))
def test_whatever_is_written_arrives_whole_and_in_order(pieces):
    async def work(transport):
        for piece in pieces:
            if piece is None:
                await asyncio.sleep(0)
            else:
                transport.write(piece)

    written = b"".join(piece for piece in pieces if piece is not None)
    assert b"".join(piece for call in corked(work)[1] for piece in call) == written
