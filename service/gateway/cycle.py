"""One request and its answer on a connection: uvicorn's, but the answer's head is written with the first of its body.

Owns the way from ASGI's messages to the bytes of an answer: one packet and one system call for a whole answer, not two
(ASGI lets a server keep the head until then). Refuses to own what is answered and everything that uvicorn does as well.
"""

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_WITHOUT_BODY = (204, 304)
_CLOSE = b"connection: close\r\n"


class Cycle(RequestResponseCycle):
    """What `on_headers_complete` begins; header names are in lower case, as ASGI says."""

    _head = b""

    async def send(self, message: ASGISendEvent) -> None:
        """The answer's next message.

        Raises:
            RuntimeError: the application broke ASGI's rules, or a header would be two.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._write(message.get("body", b""), last=not message.get("more_body", False))
        elif message["type"] == "http.response.start" and not self.response_started:
            self.response_started, self.waiting_for_100_continue = True, False
            self._begin(message["status"], list(message.get("headers", ())))
        else:
            raise RuntimeError(f"{message['type']} is not what comes next.")

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        lines = [b"%b: %b\r\n" % header for header in (*self.default_headers, *headers)]
        named = dict(headers)
        length = named.get(b"content-length")
        self.chunked_encoding = length is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY
        self.expected_content_length = int(length or 0)
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if b"close" in named.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(_CLOSE)
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], b"".join(lines))
        if self._head.count(b"\n") != len(lines) + 2 or self._head.count(b"\r") != len(lines) + 2:
            raise RuntimeError("A header's value holds the end of a line.")

    def _write(self, body: bytes, *, last: bool) -> None:
        head, self._head = self._head, b""
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(b"%b%b0\r\n\r\n" % (head, chunk) if last else head + chunk)
        elif self.scope["method"] == "HEAD":
            self.transport.write(head)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (last and self.expected_content_length):
                raise RuntimeError("The body's length is not what its header says.")
            self.transport.write(head + body)
        if last:
            self._end()

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
