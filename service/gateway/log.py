"""Logs: stdlib logging, one JSON object per line, the request's id on every line.

Owns the format and the request id's context variable. Refuses to own what is worth a line.
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

ACCESS = "aerie.access"


class JsonFormatter(logging.Formatter):
    """`extra={"fields": {...}}` becomes top-level keys; anything else of `extra` is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, logger, message, request id, fields, traceback."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    # nothing formats these (docs.python.org/3/howto/logging.html#optimization): 15 us a line
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
