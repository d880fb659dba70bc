"""What a Kubernetes Service does with connections, and clients that never stop asking. Only under tests/."""

import contextlib
import random
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

PROBE_EVERY_S = 0.05
Address = tuple[str, int]


class Balancer:
    """New connections go to gateways whose /readyz is good; one that is made stays, whatever becomes of its gateway."""

    def __init__(self, *gateways: str) -> None:
        self._gateways = gateways
        self._ready: list[Address] = []
        self._ended = threading.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Its URL, from the time that every gateway was found ready."""
        choose = self._choose

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(choose()) as upstream:
                    back = threading.Thread(target=pump, args=(upstream, self.request), daemon=True)
                    back.start()
                    pump(self.request, upstream)
                    back.join()

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            with ThreadPoolExecutor(2) as pool:
                probing = pool.submit(self._probe)
                serving = pool.submit(server.serve_forever, 0.01)
                try:
                    yield f"http://127.0.0.1:{server.server_address[1]}"
                finally:
                    server.shutdown()
                    self._ended.set()
                    serving.result()
                    probing.result()

    def sees(self, *gateways: str) -> bool:
        """Whether new connections go to these and no others."""
        return sorted(self._ready) == sorted(map(address, gateways))

    def _choose(self) -> Address:
        return random.choice(self._ready)

    def _probe(self) -> None:
        with httpx.Client(timeout=5, trust_env=False, headers={"connection": "close"}) as client:
            while not self._ended.wait(PROBE_EVERY_S):
                self._ready = [address(url) for url in self._gateways if is_ready(client, url)]


def address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes, until there are no more; that is passed on too."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Answer(NamedTuple):
    """One request's: the pool that gave it, and its text if it is whole."""

    number: int
    pool: str
    text: str


Body = Callable[[int], dict[str, Any]]


class Load:
    """Clients that ask one question after the other, every other one streamed.

    Half of them keep their connection, the others make a new one for each.
    """

    def __init__(self, url: str, clients: int, body: Body) -> None:
        self._url, self._clients, self._body = url, clients, body
        self._numbers = count()
        self._enough = threading.Event()
        self.answers: list[Answer] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the block is; then every answer has come, and what went wrong anywhere is raised."""
        with ThreadPoolExecutor(self._clients) as pool:
            asking = [pool.submit(self._ask_for_ever, keep=bool(place % 2)) for place in range(self._clients)]
            self._asking = asking
            try:
                yield
            finally:
                self._enough.set()
            for one in asking:
                one.result()

    def pools_of(self, answers: int) -> set[str]:
        """Who gave the next so many answers, that is, those to questions that were not asked yet."""
        asked = next(self._numbers)
        known: list[Answer] = []
        while len(known) < answers:
            for one in self._asking:
                if one.done():
                    one.result()
            known = [answer for answer in list(self.answers) if answer.number > asked]
            self._enough.wait(0.02)
        return {answer.pool for answer in known}

    def _ask_for_ever(self, *, keep: bool) -> None:
        headers = {} if keep else {"connection": "close"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=120, trust_env=False) as client:
            while not self._enough.is_set():
                number = next(self._numbers)
                self.answers.append(ask(client, number, self._body(number) | {"stream": number % 2 == 0}))


def ask(client: httpx.Client, number: int, body: dict[str, Any]) -> Answer:
    """One request; its answer is asserted to be whole."""
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    pool = response.headers["x-aerie-pool"].split(";")[0]
    if not body["stream"]:
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "length")
        return Answer(number, pool, choice["message"]["content"])
    return Answer(number, pool, whole_text(response.text))


def whole_text(stream: str) -> str:
    """A stream's, which has come to its end."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert events[-1] == "[DONE]", stream
    assert not any(line.startswith("event:") for line in events), stream
    chunks = [choice for event in events[:-1] for choice in parsed(event)["choices"]]
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]][1:] == []
    assert any(chunk["finish_reason"] for chunk in chunks), stream
    return "".join(chunk["delta"].get("content") or "" for chunk in chunks)


def parsed(event: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.Response(200, text=event).json()
    return found
