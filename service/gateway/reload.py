"""A value made from files that may change while the gateway runs.

Owns when files are read again, and that a new value replaces the old one only when all of it is valid. Refuses to own
what is in them (the caller's `parse`) and signals (server.py calls `reload`).

A change is seen by polling stat, which follows links each time: Kubernetes swaps the link, not the file. Files are read
once they look the same in two polls, because half of a list of keys, not yet written to its end, may be a valid list.
"""

import asyncio
import errno
import hashlib
import logging
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from service.gateway.metrics import FileGauges

LIMIT_BYTES = 2**20

T = TypeVar("T")
_Signature = tuple[int, int, int, int] | None

_log = logging.getLogger("aerie.reload")


class InvalidFiles(Exception):
    """They cannot be used; the message says which and why, in one line."""


@dataclass(frozen=True, slots=True)
class Status:
    """For metrics. `last_error` is None while the value is what the files say; `last_ok_s` is in Unix time."""

    generation: int
    last_ok_s: float
    last_error: str | None


_NO_FILE = Status(0, 0, None)


class Reloading(Generic[T]):
    """The newest valid value."""

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Callable[[Mapping[Path, bytes]], T],
        *,
        on_change: Callable[[T], None] | None = None,
        interval_s: float = 1,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Read for the first time.

        Args:
            paths: files that make one value together.
            parse: their contents to a value; whatever is wrong with them is a ValueError.
            on_change: called with each further value, before anybody else can see it; it may raise InvalidFiles.
            interval_s: between two looks.
            clock_s: Unix time, for the status only.

        Raises:
            InvalidFiles: there is no value to begin with.
        """
        self._paths = tuple(paths)
        self._names = ", ".join(map(str, paths))
        self._parse = parse
        self._on_change = on_change
        self._interval_s = interval_s
        self._clock_s = clock_s
        self._looked: tuple[_Signature, ...] | None = None
        self._taken: tuple[_Signature, ...] | None = None
        self._tried: tuple[bytes, ...] | None = None
        contents = self._read()
        self._value = self._valid(contents)
        self._tried = _fingerprint(contents)
        self._status = Status(1, clock_s(), None)

    @property
    def value(self) -> T:
        """The current value; ask each time."""
        return self._value

    @property
    def status(self) -> Status:
        """How the last attempt went."""
        return self._status

    async def watch(self) -> None:
        """Poll for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze the value
                _log.exception("unexpected error in reading %s", self._names)

    def poll(self) -> None:
        """Look once; read what has changed and is still now."""
        looks = tuple(_signature(path) for path in self._paths)
        still, self._looked = looks == self._looked, looks
        if still and looks != self._taken:
            self._taken = looks
            self.reload()

    def reload(self) -> None:
        """Read now, whatever the files look like. Contents that were tried last are not tried again."""
        try:
            contents = self._read()
            fingerprint = _fingerprint(contents)
            if fingerprint != self._tried:
                self._tried = fingerprint
                self._replace(self._valid(contents))
        except InvalidFiles as error:
            self._status = replace(self._status, last_error=str(error))
            _log.error("reload failed, the old value stays", extra={"fields": {"reason": str(error)}})

    def _replace(self, value: T) -> None:
        if self._on_change is not None:
            try:
                self._on_change(value)
            except InvalidFiles as error:
                self._tried = None  # what stands in its way may pass
                raise InvalidFiles(f"{self._names}: {error}") from None
        self._value = value
        self._status = Status(self._status.generation + 1, self._clock_s(), None)
        _log.info("reloaded", extra={"fields": {"files": self._names, "generation": self._status.generation}})

    def _read(self) -> dict[Path, bytes]:
        try:
            return {path: _contents(path) for path in self._paths}
        except OSError as error:
            self._tried = None
            raise InvalidFiles(f"{error.filename or self._names}: {error.strerror or error}") from None

    def _valid(self, contents: Mapping[Path, bytes]) -> T:
        try:
            return self._parse(contents)
        except ValueError as error:
            raise InvalidFiles(f"{self._names}: {' '.join(str(error).split())}") from None


class OptionalFile(Generic[T]):
    """The newest valid value of one file that may not be named, and its gauges."""

    def __init__(
        self,
        path: Path | None,
        parse: Callable[[bytes], T],
        gauges: FileGauges,
        *,
        on_change: Callable[[T], None],
        interval_s: float = 1,
    ) -> None:
        """Read it, if there is one; arguments and errors are those of `Reloading`."""
        self._file: Reloading[T] | None = None
        if path is not None:
            # its contents are all there is to parse
            self._file = Reloading(
                [path], lambda contents: parse(*contents.values()), on_change=on_change, interval_s=interval_s
            )
        gauges.generation.set_function(lambda: self._status.generation)
        gauges.loaded.set_function(lambda: self._status.last_ok_s)
        gauges.stale.set_function(lambda: self._status.last_error is not None)

    @property
    def value(self) -> T | None:
        """The current value; ask each time. None without a file."""
        return None if self._file is None else self._file.value

    @property
    def _status(self) -> Status:
        return self._file.status if self._file else _NO_FILE

    def reload(self) -> None:
        """Read it now, if there is one."""
        if self._file is not None:
            self._file.reload()

    async def watch(self) -> None:
        """Read it whenever it changes, for ever."""
        await (asyncio.Event().wait() if self._file is None else self._file.watch())


def _signature(path: Path) -> _Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _contents(path: Path) -> bytes:
    """A small regular file; opening a pipe would block the gateway."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"larger than {LIMIT_BYTES} bytes", str(path))
    return data


def _fingerprint(contents: Mapping[Path, bytes]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(data).digest() for data in contents.values())
