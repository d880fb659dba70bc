"""Server-sent events as bytes: split a stream into events, write an error event.

Owns the framing. Refuses to own what events mean (sglang_events.py) and never rewrites one.
"""

import re
from itertools import pairwise

from service.gateway.errors import GatewayError, UpstreamProtocolError

_EVENT_END = re.compile(rb"\n\r?\n")


class EventSplitter:
    """Cuts a byte stream at the ends of events, terminators kept: the blocks joined are the stream.

    However the bytes are chunked, the events are the same. Holds at most one unfinished event of `limit_bytes`.
    """

    def __init__(self, limit_bytes: int = 8 * 2**20) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []  # of the unfinished event
        self._held_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """A block of the events that `data` completes; empty if it completes none.

        Raises:
            UpstreamProtocolError: an event is longer than the limit.
        """
        seam = self._tail + data if self._tail else data  # a terminator may straddle it
        block = b""
        if b"\n\n" in seam or b"\n\r\n" in seam:  # only then are the pieces joined: once for an event of many
            block, rest = _cut(b"".join((*self._pieces, data)))
            self._pieces, self._held_bytes, self._tail = [rest], len(rest), rest[-2:]
        else:
            self._pieces.append(data)
            self._held_bytes += len(data)
            self._tail = seam[-2:]
        if self._held_bytes > self._limit_bytes:
            raise UpstreamProtocolError("The runtime sent an event without an end.")
        return block


def _cut(buffer: bytes) -> tuple[bytes, bytes]:
    """Whole events, and what is left."""
    if b"\r" not in buffer and b"\n\n\n" not in buffer:  # SGLang writes neither
        end = buffer.rindex(b"\n\n") + 2
    else:
        *_, last = _EVENT_END.finditer(buffer)
        end = last.end()
    return buffer[:end], buffer[end:]


def events(block: bytes) -> list[bytes]:
    """Each of a block of whole events, with its end."""
    ends = [end.end() for end in _EVENT_END.finditer(block)]
    return [block[start:end] for start, end in pairwise([0, *ends])]


def error_event(error: GatewayError) -> bytes:
    """How a stream that already began ends on an error: OpenAI's error body as an event, and no [DONE] after it."""
    return b"event: error\ndata: " + error.body + b"\n\n"
