"""Traces: a client's W3C trace context goes on to the runtime, always; with our own spans where they are switched on.

Owns what goes on and the hook around an attempt. Refuses to own spans (spans.py): here nothing of OpenTelemetry is
imported, and without spans nothing is done for them.
"""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

from service.gateway.record import RequestRecord

_CONTEXT = (b"traceparent", b"tracestate")
_SANE = re.compile(rb"[\x20-\x7e]{1,512}")


_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class CannotTrace(Exception):
    """Spans are asked for, and what they need is not installed."""


def check_installed() -> None:
    """Whether spans.py can be imported.

    Raises:
        CannotTrace: it cannot.
    """
    if any(find_spec(name.partition(".")[0]) is None or find_spec(name) is None for name in _PACKAGES):
        raise CannotTrace(f"tracing needs {' and '.join(_PACKAGES)}: pip install 'aerie[otel]'")


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """A client's trace context as header lines for the runtime."""
    found = [(name, value) for name, value in headers if name in _CONTEXT and _SANE.fullmatch(value)]
    return "".join([f"{name.decode()}: {value.decode()}\r\n" for name, value in found])


def attempt(record: RequestRecord, url: str, path: str) -> AbstractContextManager[str]:
    """A context for one attempt at a replica; gives the header lines that tell it of the trace."""
    return nullcontext(record.trace) if record.spans is None else record.spans.attempt(record, url, path)
