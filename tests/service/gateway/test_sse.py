"""Law: however a stream is cut into chunks, the events are the same, and joined they are the stream."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import sse
from service.gateway.errors import InvalidRequest, UpstreamProtocolError
from service.gateway.sse import EventSplitter, error_event, events

STREAMS = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"data: {}", b"\n\n", b"\r\n\r\n", b"\xc3"]), max_size=30)


def split(chunks):
    splitter = EventSplitter()
    return [event for chunk in chunks for event in events(splitter.feed(chunk))]


@given(STREAMS, st.lists(st.integers(0, 90)))
def test_events_do_not_depend_on_how_the_bytes_are_chunked(pieces, cuts):
    stream = b"".join([*pieces, b"a\n\n"])
    edges = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    events = split(stream[start:end] for start, end in pairwise(edges))
    assert events == split([stream])
    assert b"".join(events) == stream


def test_both_line_endings_end_an_event():
    assert split([b"data: 1\n\ndata: 2\r\n\r\ndata: 3"]) == [b"data: 1\n\n", b"data: 2\r\n\r\n"]


def test_a_long_event_is_put_together_once(monkeypatch):
    joined, really_cut = [], sse._cut
    monkeypatch.setattr(sse, "_cut", lambda buffer: joined.append(len(buffer)) or really_cut(buffer))
    pieces = [b"data: x\n" * 100] * 100
    assert split([*pieces, b"\n", b"data: y\n\n"]) == [b"".join(pieces) + b"\n", b"data: y\n\n"]
    assert joined == [80_001, 9]


def test_an_event_without_an_end_is_an_error_not_memory():
    splitter = EventSplitter(limit_bytes=10)
    assert splitter.feed(b"data: 1234") == b""
    with pytest.raises(UpstreamProtocolError):
        splitter.feed(b"5")


def test_an_error_event_holds_openais_body():
    words = error_event(InvalidRequest("no", param="x"))
    expected = b'{"error":{"message":"no","type":"invalid_request_error","param":"x","code":"invalid_request"}}'
    assert words == b"event: error\ndata: " + expected + b"\n\n"
