"""The gateway's process: one event loop, one listener, and an end that loses no accepted request's answer.

Owns signals, the order of shutting down and the look at every connection. Refuses to own what is served (app.py), a
connection's limits (connection.py) and the lives of several workers (workers.py).

SIGHUP reads the files of keys and pools again. The first SIGTERM or SIGINT: readiness 503; after the notice the
listener closes; running requests finish within the drain time and then end with an error of their own. The second one
ends the process at once. Of several workers, only the process above them ends at a second one, and all of them with it:
a worker that drains gets one from it besides its own where all of a group are signalled, as systemd does.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from service.gateway import log
from service.gateway.app import create_app
from service.gateway.board import Board, Shared
from service.gateway.connection import Connection, ConnectionLimits
from service.gateway.drain import Drain
from service.gateway.settings import Settings
from service.gateway.workers import Supervisor, listeners

LAST_WORDS_S = 10
"""After the drain time: for errors to reach clients and aborts to reach the runtime."""
ACCEPTED_AT_ONCE = 16
"""New connections in one turn of the loop. libuv takes one for each handle: with one handle, the last of 64 that came
together under load waited for 0.9 s."""
TICKS_PER_LOOK = 5
"""uvicorn ticks ten times a second."""

_log = logging.getLogger("aerie.server")


def serve(settings: Settings) -> None:
    """Serve until a signal; returns after a graceful end.

    Raises:
        InvalidFiles: a file that the settings name cannot be used.
        CannotListen: the port is not to be had.
        CannotShare: several workers have no place for what they tell one another.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))  # a stream is two connections, each a file
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload: its default ends the process
    log.configure(level=settings.log_level, style=settings.log_format)
    drain = Drain()
    app = create_app(settings, drain)
    if settings.workers == 1:
        (sockets,) = listeners(settings.host, settings.port, 1)
        _Server(settings, app, drain).run(sockets)
    else:
        _supervise(settings)  # the app has shown that everything is valid; each worker makes its own


def _supervise(settings: Settings) -> None:
    board = Board.new()
    try:
        sockets = listeners(settings.host, settings.port, settings.workers)
        Supervisor(partial(_work, settings, board), sockets, board.bury, board.remove).run()
    finally:
        board.remove()


def _work(settings: Settings, board: Board, worker: int, sockets: list[socket.socket], life: int) -> None:
    """One of several workers; `life` ends when the process above has."""
    drain = Drain()
    app = create_app(settings, drain, Shared(board, worker, settings.workers))
    server = _Server(settings, app, drain, life)
    server.run(sockets)
    if server.is_orphan:
        board.leave(worker)


def protocol(settings: Settings, app: FastAPI) -> Any:  # noqa: ANN401 - a class, as far as uvicorn is concerned
    """How the app is to be served: it needs to know of its connections."""
    return partial(Connection, limits=ConnectionLimits.of(settings), metrics=app.state.metrics)


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=protocol(settings, app),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing reads the client's address
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + LAST_WORDS_S,
    )


class _Server(uvicorn.Server):
    """uvicorn, with our idea of an end."""

    def __init__(self, settings: Settings, app: FastAPI, drain: Drain, life: int | None = None) -> None:
        super().__init__(_config(settings, app))
        self._reload = app.state.reload
        self._settings = settings
        self._drain = drain
        self._life = life
        self.is_orphan = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop for the signal handler, then serve."""
        gc.freeze()  # what is there now stays: collections need not look at it
        gc.set_threshold(20_000, 20, 50)  # a request leaves no cycle behind: looking at 700 objects finds nothing
        self._loop = asyncio.get_running_loop()
        if self._life is not None:
            self._loop.add_reader(self._life, self._be_orphan)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From its end on there is something to reload."""
        handles = [listener.dup() for listener in sockets or () for _ in range(ACCEPTED_AT_ONCE)]
        await super().startup(handles)
        _log.info("listening", extra={"fields": {"address": f"{self.config.host}:{handles[0].getsockname()[1]}"}})
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    async def on_tick(self, counter: int) -> bool:
        """Several times a second."""
        if counter % TICKS_PER_LOOK == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                cast("Connection", connection).look(now_s)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal drains, the second ends; with a process above, that decides on the end."""
        if self._loop is None:
            os._exit(128 + sig)
        if self._drain.draining:
            if self._life is None or self.is_orphan:
                os._exit(128 + sig)
            return
        self._drain.begin()
        self._loop.call_soon_threadsafe(self._begin_end)

    def _be_orphan(self) -> None:
        """The process above is gone, without a word."""
        assert self._loop is not None
        assert self._life is not None
        self._loop.remove_reader(self._life)
        self.is_orphan = True
        if not self._drain.draining:
            self.handle_exit(signal.SIGTERM, None)

    def _begin_end(self) -> None:
        assert self._loop is not None
        _log.info("draining", extra={"fields": {"drain_timeout_s": self._settings.drain_timeout_s}})
        self._loop.call_later(self._settings.drain_notice_s, self._stop_listening)

    def _stop_listening(self) -> None:
        assert self._loop is not None
        self.should_exit = True
        self._loop.call_later(self._settings.drain_timeout_s, self._drain.lifelines.end)
