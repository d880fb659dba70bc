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
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """What has arrived of an unfinished event."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes.

        Raises:
            UpstreamProtocolError: an event is longer than the limit.
        """
        buffer = self._rest + data if self._rest else data
        *events, self._rest = _split(buffer, max(0, len(self._rest) - 2))  # a terminator may straddle the seam
        if len(self._rest) > self._limit_bytes:
            raise UpstreamProtocolError("The runtime sent an event without an end.")
        return events


def _split(buffer: bytes, scan_from: int) -> list[bytes]:
    """Whole events, and what is left."""
    if b"\r" not in buffer:  # SGLang writes none: ten times as fast
        *events, rest = buffer.split(b"\n\n")
        return [*(event + b"\n\n" for event in events), rest]
    events, start = [], 0
    for end in _EVENT_END.finditer(buffer, scan_from):
        events.append(buffer[start : end.end()])
        start = end.end()
    return [*events, buffer[start:]]


def error_event(error: GatewayError) -> bytes:
    """How a stream that already began ends on an error: OpenAI's error body as an event, and no [DONE] after it."""
    return b"event: error\ndata: " + error.body + b"\n\n"
