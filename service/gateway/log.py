"""Logs: stdlib logging, one JSON object per line, the request's id on every line.

Owns the format and the request id's context variable. Refuses to own what is worth a line.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

ACCESS = "aerie.access"

_access = logging.getLogger(ACCESS)
_root = logging.getLogger()


class JsonFormatter(logging.Formatter):
    """`extra={"fields": {...}}` becomes top-level keys; anything else of `extra` is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, logger, message, request id, fields, traceback."""
        line = _head(record.created, record.levelname, record.name, record.getMessage())
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class JsonHandler(logging.StreamHandler[TextIO]):
    """Writes JSON lines; those of requests without what logging makes of a line (`access`)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonFormatter())
        self._lines: list[bytes] = []

    def put(self, level: int, logger: str, message: str, fields: Mapping[str, Any]) -> None:
        """A line, written with all others of this turn of the event loop; to be called on one.

        A second signal, which ends the process at once, may lose a turn's lines: to write may take for ever.
        """
        line = _head(time.time(), logging.getLevelName(level), logger, message)
        line.update(fields)
        written = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(written)  # in one step: another thread may take the list away

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, behind what was put before."""
        self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write what was put."""
        lines, self._lines = self._lines, []
        with suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed
            if lines:
                self.stream.write(b"".join(lines).decode())
            super().flush()


@lru_cache(maxsize=2)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _head(created_s: float, level: str, logger: str, message: str) -> dict[str, Any]:
    second, millisecond = divmod(int(created_s * 1000), 1000)
    return {
        "time": f"{_second(second)}.{millisecond:03d}+00:00",
        "level": level.lower(),
        "logger": logger,
        "message": message,
    }


class TextFormatter(logging.Formatter):
    """For a terminal: the fields as `key=value` behind the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, then the fields that have a value."""
        fields = {key: value for key, value in getattr(record, "fields", {}).items() if value is not None}
        return " ".join([super().format(record), *(f"{key}={value}" for key, value in fields.items())])


def configure(*, level: str, style: str) -> None:
    """Send every log line of this process to stderr in one format."""
    handler = JsonHandler(sys.stderr) if style == "json" else logging.StreamHandler(sys.stderr)
    if style != "json":
        handler.setFormatter(TextFormatter())
    # nothing formats these (docs.python.org/3/howto/logging.html#optimization): 15 us a line
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    _root.handlers[:] = [handler]
    _root.setLevel(level.upper())


def access(level: int, fields: Mapping[str, Any]) -> None:
    """A request's line. Where its JSON is all that becomes of it, it is written without a LogRecord: 8 us less."""
    if not _access.isEnabledFor(level):
        return
    handler = _root.handlers[0] if len(_root.handlers) == 1 and not _access.handlers else None
    if isinstance(handler, JsonHandler):
        handler.put(level, ACCESS, "request", fields)
    else:
        _access.log(level, "request", extra={"fields": fields})
