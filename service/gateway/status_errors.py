"""The last errors of this process, for the status page.

Owns which requests count as errors and what is kept of them: never a path, a query, a prompt or a key. Refuses to own
the log and the metrics, which have all of them (middleware.py, observe.py).
"""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.gateway.errors import Overloaded
from service.gateway.record import Outcome, RequestRecord

KEPT = 50


class RecentError(NamedTuple):
    """One request that failed through us or the runtime, or for lack of room."""

    at_s: float
    """Unix time."""
    route: str
    status: int
    code: str
    request_id: str


class RecentErrors:
    """The last `KEPT`, the newest first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: deque[RecentError] = deque(maxlen=KEPT)

    def __iter__(self) -> "reversed[RecentError]":
        return reversed(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, record: RequestRecord) -> None:
        """Keep it if it is one."""
        failure = record.failure  # /readyz has none: it answers 503 to whoever probes, again and again
        if failure is not None and (record.outcome is Outcome.ERROR or isinstance(failure, Overloaded)):
            kept = RecentError(self._clock(), record.route, failure.status, failure.code, record.request_id)
            self._kept.append(kept)
