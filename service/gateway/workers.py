"""Several processes that serve one port: started, replaced when they die, told what this process is told.

Owns the listeners, the workers' lives and the signals of the process above them. Refuses to own what a worker does
(server.py) and what workers tell one another (board.py). No event loop runs here, so forking is safe.

Each worker has a listener of its own (SO_REUSEPORT): the kernel deals connections out evenly by a hash, while from a
shared one whoever wakes first takes them all. This process keeps them open too, so that connections that come for a
dead worker wait for its successor; if that will be long, it is closed, and the others get them.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NoReturn

BACKLOG = 2048
BACKOFF_S, BACKOFF_LIMIT_S = 0.5, 30.0
"""Before the successor of a worker that lived less than `STEADY_S` is started: doubles with every such one."""
STEADY_S = 10.0
PATIENCE_S = 2.0
"""A connection waits no longer than this for a successor to be started."""

_ENDS = (signal.SIGTERM, signal.SIGINT)
_WATCHED = {*_ENDS, signal.SIGHUP, signal.SIGCHLD}

_log = logging.getLogger("aerie.workers")


class CannotListen(Exception):
    """The port cannot be had; the message says why, in one line."""


def listeners(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """Of each worker: one for each of the host's addresses, listening. Port 0 is any that is free.

    Raises:
        CannotListen: it is taken, or not ours.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = [(family, address[0]) for family, _, _, _, address in dict.fromkeys(found)]
        with ExitStack() as stack:  # alone on the port for a moment: others who share ports would not be refused
            for family, address in places:
                alone = stack.enter_context(_bound(family, address, port, shared=False))
                port = alone.getsockname()[1]
        shared = workers > 1
        return [[_listener(family, address, port, shared=shared) for family, address in places] for _ in range(workers)]
    except OSError as error:
        raise CannotListen(f"{host}:{port}: {error.strerror or error}") from error


def _listener(family: int, address: str | int, port: int, *, shared: bool) -> socket.socket:
    listener = _bound(family, address, port, shared=shared)
    listener.listen(BACKLOG)
    return listener


def _bound(family: int, address: str | int, port: int, *, shared: bool) -> socket.socket:
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier process may linger
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


@dataclass(slots=True)
class _Place:
    """Of one worker and its successors."""

    index: int
    sockets: list[socket.socket]
    pid: int | None = None
    started_s: float = 0.0
    short_lives: int = 0
    start_at_s: float = 0.0


class Supervisor:
    """The process above the workers."""

    def __init__(
        self,
        work: Callable[[int, list[socket.socket], int], None],
        sockets: Sequence[list[socket.socket]],
        on_death: Callable[[int], None],
        on_end: Callable[[], None],
    ) -> None:
        """One worker for each of `sockets`.

        Args:
            work: what worker number so-and-so does with its listeners; the last argument is a file descriptor that
                ends when this process has.
            sockets: the listeners of each.
            on_death: called here when a worker has ended, before its successor starts.
            on_end: called here when the last has ended, while no signal can end this process.
        """
        self._work = work
        self._on_death = on_death
        self._on_end = on_end
        self._places = [_Place(index, own) for index, own in enumerate(sockets)]
        self._life, self._own_life = os.pipe()
        self._draining = False
        self._mask: set[signal.Signals | int] = set()

    def run(self) -> None:
        """Supervise until a signal; returns when every worker has ended."""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            while self._due() or any(place.pid for place in self._places):
                self._start_due()
                told = signal.sigtimedwait(_WATCHED, self._patience_s())
                if told is not None:
                    self._take(signal.Signals(told.si_signo))
                self._bury_dead()
        finally:
            self._on_end()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _due(self) -> list[_Place]:
        return [] if self._draining else [place for place in self._places if place.pid is None]

    def _start_due(self) -> None:
        for place in self._due():
            if place.start_at_s <= time.monotonic():
                self._start(place)

    def _start(self, place: _Place) -> None:
        for listener in place.sockets:
            listener.listen(BACKLOG)  # it may have been closed meanwhile
        place.started_s = time.monotonic()
        try:
            place.pid = os.fork() or self._be_worker(place)
        except OSError as error:  # the machine has no room for another process, for now
            fields = {"worker": place.index, "reason": error.strerror, "again_in_s": BACKOFF_LIMIT_S}
            _log.error("worker cannot be started", extra={"fields": fields})
            self._wait(place, BACKOFF_LIMIT_S)
        else:
            _log.info("worker started", extra={"fields": {"worker": place.index, "pid": place.pid}})

    def _wait(self, place: _Place, delay_s: float) -> None:
        """Start it later; connections are left to the others if that is long."""
        place.start_at_s = time.monotonic() + delay_s
        if delay_s > PATIENCE_S:
            for listener in place.sockets:
                with suppress(OSError):  # it is closed already
                    listener.shutdown(socket.SHUT_RDWR)

    def _patience_s(self) -> float:
        waits_s = [place.start_at_s - time.monotonic() for place in self._due()]
        return max(0.0, min([STEADY_S, *waits_s]))

    def _be_worker(self, place: _Place) -> NoReturn:
        """In the child: a session of its own, so that a terminal's Ctrl-C reaches only the process above."""
        status = 1
        try:
            os.setsid()
            os.close(self._own_life)
            for other in self._places:
                if other is not place:
                    for listener in other.sockets:
                        listener.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._work(place.index, place.sockets, self._life)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - the outermost frame of this process
            _log.exception("worker failed", extra={"fields": {"worker": place.index}})
        finally:
            try:
                logging.shutdown()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def _take(self, told: signal.Signals) -> None:
        if told in _ENDS:
            self._end(told)
        elif told == signal.SIGHUP:
            self._tell(told)

    def _end(self, told: signal.Signals) -> None:
        """The first signal drains, the second ends."""
        if self._draining:
            self._tell(signal.SIGKILL)
            for place in self._places:
                if place.pid is not None:  # until it is dead, it writes where others are about to clean up
                    os.waitpid(place.pid, 0)
            sys.exit(128 + told)
        self._draining = True
        for place in self._places:
            for listener in place.sockets:  # the workers' own stay open as long as they want
                listener.close()
        self._tell(told)

    def _tell(self, told: signal.Signals) -> None:
        for place in self._places:
            if place.pid is not None:
                os.kill(place.pid, told)

    def _bury_dead(self) -> None:
        for place in self._places:
            if place.pid is not None and (ended := os.waitpid(place.pid, os.WNOHANG))[0]:
                self._bury(place, os.waitstatus_to_exitcode(ended[1]))

    def _bury(self, place: _Place, status: int) -> None:
        pid, place.pid = place.pid, None
        self._on_death(place.index)
        if self._draining:
            return
        now_s = time.monotonic()
        place.short_lives = place.short_lives + 1 if now_s - place.started_s < STEADY_S else 0
        delay_s = min(BACKOFF_S * 2.0 ** (place.short_lives - 1), BACKOFF_LIMIT_S) if place.short_lives else 0.0
        self._wait(place, delay_s)
        fields = {"worker": place.index, "pid": pid, "status": status, "again_in_s": delay_s}
        _log.error("worker ended by itself", extra={"fields": fields})
