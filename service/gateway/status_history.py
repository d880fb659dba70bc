"""What the counters said a moment ago, so that the status page can show rates without a Prometheus.

Owns snapshots of the time series that the page reads, and the distance between two. Refuses to take one by itself:
somebody must look at the page; and to know what the numbers mean (status_figures.py).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import Metric

INTERVAL_S = 1.0
"""Between two snapshots: to collect all time series takes milliseconds."""
WINDOW_S = 60.0
SHORTEST_S = 10.0
"""Tokens are counted when a request ends: over less than this, rates say little."""

_READ: Mapping[str, tuple[str, ...]] = {
    "aerie_requests_total": ("route", "outcome"),
    "aerie_requests_in_flight": (),
    "aerie_completion_tokens_total": ("pool",),
    "aerie_spec_verify_passes_total": ("pool",),
    "aerie_spec_correct_drafts_total": ("pool",),
    "aerie_spec_accepted_drafts_total": ("pool", "position"),
    "aerie_spec_break_even_acceptance_length": ("pool", "batch_size"),
    "aerie_batch_busy_seconds_total": ("pool", "batch_size"),
    "aerie_batch_completion_tokens_total": ("pool", "batch_size"),
    "aerie_batch_calibrated_tokens_total": ("pool", "batch_size"),
    "aerie_batch_baseline_tokens_total": ("pool", "batch_size"),
    "aerie_calibration_valid": ("pool",),
    "aerie_calibration_timestamp_seconds": ("pool",),
    "aerie_pool_info": ("pool", "version"),
    "aerie_policy_decisions_total": ("kind", "reason"),
    "aerie_refusals_total": ("code",),
    "aerie_queue_waiting_requests": ("pool",),
    "aerie_upstream_up": ("pool", "replica"),
    "aerie_upstream_requests_in_flight": ("pool",),
    "aerie_upstream_info": ("pool", "model", "version", "device", "algorithm", "tree"),
    "aerie_build_info": ("version",),
    "aerie_start_time_seconds": (),
}
"""The series that the page reads, and the labels it tells apart: samples that differ in others only are summed."""


class Totals:
    """Sums of samples, by series and the labels that the page tells apart."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._of: dict[str, dict[tuple[str, ...], float]] = {}
        for sample in (sample for family in families for sample in family.samples):
            if (names := _READ.get(sample.name)) is not None:
                labels = tuple(sample.labels[name] for name in names)
                of_series = self._of.setdefault(sample.name, {})
                of_series[labels] = of_series.get(labels, 0.0) + sample.value

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        """All of a series."""
        return self._of.get(name, {})

    def of(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Those whose first labels are these, by the other labels."""
        return {own[len(labels) :]: value for own, value in self[name].items() if own[: len(labels)] == labels}

    def sum(self, name: str, *labels: str) -> float:
        """Of those whose first labels are these; 0 if there are none."""
        return sum(self.of(name, *labels).values())


class Window(NamedTuple):
    """Two snapshots, and the seconds between them."""

    then: Totals
    now: Totals
    seconds: float

    def grew(self, name: str, *labels: str) -> float:
        """By how much a counter did: a worker's death may take back what it counted in its last seconds."""
        return max(0.0, self.now.sum(name, *labels) - self.then.sum(name, *labels))


class History:
    """Snapshots of the last minute, and the last one before it."""

    def __init__(self, collect: Callable[[], Iterable[Metric]], clock: Callable[[], float] = time.monotonic) -> None:
        self._collect = collect
        self._clock = clock
        self._taken: deque[tuple[float, Totals]] = deque()

    @property
    def due(self) -> bool:
        """Whether the newest snapshot is too old."""
        return not self._taken or self._clock() - self._taken[-1][0] >= INTERVAL_S

    def look(self) -> tuple[Totals, Window | None]:
        """The numbers of now, a second old at most, and those of the last minute as far as they are known."""
        if self.due:
            self._taken.append((self._clock(), Totals(self._collect())))
        now_s, now = self._taken[-1]
        while len(self._taken) > 1 and now_s - self._taken[1][0] >= WINDOW_S:
            self._taken.popleft()
        then_s, then = self._taken[0]
        return now, Window(then, now, now_s - then_s) if now_s - then_s >= SHORTEST_S else None
