"""The gateway's process: one event loop, one listener, and an end that loses no accepted request's answer.

Owns signals and the order of shutting down. Refuses to own what is served (app.py).

SIGHUP reads the key file again. The first SIGTERM or SIGINT: readiness 503; after the notice the listener closes;
running requests finish within the drain time and then end with an error of their own. The second one ends the process
at once.
"""

import asyncio
import importlib.util
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.gateway import log
from service.gateway.app import create_app
from service.gateway.drain import Drain
from service.gateway.settings import Settings

LAST_WORDS_S = 10
"""After the drain time: for errors to reach clients and aborts to reach the runtime."""

_log = logging.getLogger("aerie.server")


def serve(settings: Settings) -> None:
    """Serve until a signal; returns after a graceful end.

    Raises:
        InvalidFiles: a file that the settings name cannot be used.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload: its default ends the process
    log.configure(level=settings.log_level, style=settings.log_format)
    drain = Drain()
    app = create_app(settings, drain)
    _Server(_config(settings, app), settings, drain, app.state.guard.reload).run()


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + LAST_WORDS_S,
    )


class _Server(uvicorn.Server):
    """uvicorn, with our idea of an end."""

    def __init__(self, config: uvicorn.Config, settings: Settings, drain: Drain, reload: Callable[[], None]) -> None:
        super().__init__(config)
        self._reload = reload
        self._settings = settings
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: None = None) -> None:  # type: ignore[override]
        """Remember the loop for the signal handler, then serve."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal drains, the second ends."""
        if self._drain.draining or self._loop is None:
            os._exit(128 + sig)
        self._drain.begin()
        self._loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        assert self._loop is not None
        _log.info("draining", extra={"fields": {"drain_timeout_s": self._settings.drain_timeout_s}})
        self._loop.call_later(self._settings.drain_notice_s, self._stop_listening)

    def _stop_listening(self) -> None:
        assert self._loop is not None
        self.should_exit = True
        self._loop.call_later(self._settings.drain_timeout_s, self._drain.expire)
