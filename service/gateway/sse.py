"""Server-sent events as bytes: split a stream into events, write an error event.

Owns the framing. Refuses to own what events mean (sglang.py) and never rewrites one.
"""

import re

from service.gateway.errors import GatewayError, UpstreamProtocolError

_EVENT_END = re.compile(rb"\n\r?\n")


class EventSplitter:
    """Cuts a byte stream into whole events, terminators kept: the pieces joined are the stream.

    However the bytes are chunked, the events are the same. Holds at most one unfinished event of `limit_bytes`.
    """

    def __init__(self, limit_bytes: int = 8 * 2**20) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []  # of the unfinished event
        self._held_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes.

        Raises:
            UpstreamProtocolError: an event is longer than the limit.
        """
        seam = self._tail + data if self._tail else data  # a terminator may straddle it
        events: list[bytes] = []
        if b"\n\n" in seam or b"\n\r\n" in seam:  # only then are the pieces joined: once for an event of many
            *events, rest = _split(b"".join((*self._pieces, data)))
            self._pieces, self._held_bytes, self._tail = [rest], len(rest), rest[-2:]
        else:
            self._pieces.append(data)
            self._held_bytes += len(data)
            self._tail = seam[-2:]
        if self._held_bytes > self._limit_bytes:
            raise UpstreamProtocolError("The runtime sent an event without an end.")
        return events


def _split(buffer: bytes) -> list[bytes]:
    """Whole events, and what is left."""
    if b"\r" not in buffer:  # SGLang writes none: ten times as fast
        *events, rest = buffer.split(b"\n\n")
        return [*(event + b"\n\n" for event in events), rest]
    events, start = [], 0
    for end in _EVENT_END.finditer(buffer):
        events.append(buffer[start : end.end()])
        start = end.end()
    return [*events, buffer[start:]]


def error_event(error: GatewayError) -> bytes:
    """How a stream that already began ends on an error: OpenAI's error body as an event, and no [DONE] after it."""
    return b"event: error\ndata: " + error.body + b"\n\n"
