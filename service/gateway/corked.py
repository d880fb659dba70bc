"""A transport that sends an answer's head together with the first of its body: one packet and one system call, not two.

Owns the moment in between. Refuses to own what is sent; everything else is the transport's own.
"""

import asyncio
from typing import Any

_HEAD = b"HTTP/1."


class CorkedTransport:
    """Holds a head back until something follows it, but no longer than the present turn of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send it, or keep it for a moment if it is a head."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """After what was written."""
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        """After what was written."""
        self._flush()
        self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """What is written and not yet sent."""
        return len(self._head) + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the transport
        return getattr(self._transport, name)
