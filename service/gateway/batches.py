"""What a replica's time went to: seconds, tokens and what a baseline would have made of them, by batch size.

Owns the arithmetic. Refuses to own who is at a replica (load.py), the calibration (baseline.py) and rates and ratios,
which are Prometheus's: from counters any window of any fleet can be put together.

A replica's time is shared equally among the requests in its batch, whoever sent them; a request's share is counted when
it has ended and its tokens are known, both by the batch sizes it met. So numerator and denominator are of the same
requests: one whose client left spoils neither, and several gateways before one replica add up. Where a request met
several batch sizes, its tokens go by the chunks that arrived at each, or, unless it was streamed, by the time.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from service.gateway.load import Load
from service.gateway.metrics import Metrics

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 56, 64, 128, 256)
"""Upper bounds; larger batches share the label `+Inf`."""
LABELS = (*map(str, BATCH_SIZES), "+Inf")

Baseline = Callable[[int], float | None]
"""Tokens per second that the baseline generates at a batch size; None where that was not measured."""


def bucket(batch_size: int) -> int:
    """The index among `LABELS`."""
    return bisect_left(BATCH_SIZES, batch_size)


class _Sums(NamedTuple):
    """Of one bucket since the meter's beginning: wall seconds, a request's share of them and, of that, what was at a
    batch size whose baseline is known, and what the baseline would have generated in it."""

    wall_s: float
    share_s: float
    calibrated_s: float
    baseline_tokens: float


_NOTHING = _Sums(0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class _Counted:
    """In one bucket, of requests that have ended and were not told yet."""

    busy_s: float = 0.0
    tokens: float = 0.0
    calibrated_tokens: float = 0.0
    baseline_tokens: float = 0.0


class BatchMeter:
    """One replica's. `settle` before every change of its load."""

    def __init__(
        self, metrics: Metrics, pool: str, replica: str, load: Load, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.baseline: Baseline | None = None
        self._load = load
        self._clock = clock
        self._since_s = clock()
        self._sums: dict[int, _Sums] = {}
        self._counted: dict[int, _Counted] = {}
        self._metrics = metrics
        self._labels = pool, replica
        self._unfollow = metrics.before_collection(self._tell)

    @property
    def batch_size(self) -> int:
        """What runs now, as far as it is known: what exceeds the runtime's own limit waits there."""
        return min(self._load.busy, self._load.capacity)

    def settle(self) -> None:
        """The load has been as it is until now."""
        now_s = self._clock()
        elapsed_s, self._since_s = now_s - self._since_s, now_s
        load = self._load
        if not (elapsed_s and load.ours):
            return
        busy, batch_size = load.busy, self.batch_size
        index, share_s = bucket(batch_size), elapsed_s / busy
        wall_s, shared_s, calibrated_s, baseline_tokens = self._sums.get(index, _NOTHING)
        if self.baseline is not None and (tokens_per_s := self.baseline(batch_size)) is not None:
            calibrated_s += share_s
            baseline_tokens += share_s * tokens_per_s
        self._sums[index] = _Sums(wall_s + elapsed_s, shared_s + share_s, calibrated_s, baseline_tokens)

    def enter(self) -> "Stay":
        """A request begins; the load is about to hold it."""
        self.settle()
        return Stay(self, self._sums.copy())

    def count(self, since: Mapping[int, _Sums], chunks: dict[int, int], tokens: int) -> None:
        """A request that came when the sums were these has generated so many tokens."""
        self.settle()
        met: dict[int, tuple[_Sums, _Sums]] = {}
        for index, now in self._sums.items():
            if (then := since.get(index, _NOTHING)) is not now:
                met[index] = now, then
        weights: Mapping[int, float] = chunks or {index: now.wall_s - then.wall_s for index, (now, then) in met.items()}
        whole = sum(weights.values())
        for index, (now, then) in met.items():
            share_s = now.share_s - then.share_s
            generated = tokens * weights.get(index, 0) / whole
            if (counted := self._counted.get(index)) is None:
                counted = self._counted[index] = _Counted()
            counted.busy_s += share_s
            counted.tokens += generated
            if calibrated_s := now.calibrated_s - then.calibrated_s:
                counted.calibrated_tokens += generated * min(1.0, calibrated_s / share_s)
                counted.baseline_tokens += now.baseline_tokens - then.baseline_tokens

    def _tell(self) -> None:
        """Count: not before somebody reads, since a request meets many batch sizes, each with four series."""
        metrics = self._metrics
        for index, counted in self._counted.items():
            labels = *self._labels, LABELS[index]
            metrics.batch_seconds.labels(*labels).inc(counted.busy_s)
            metrics.batch_tokens.labels(*labels).inc(counted.tokens)
            if counted.baseline_tokens:
                metrics.batch_calibrated_tokens.labels(*labels).inc(counted.calibrated_tokens)
                metrics.batch_baseline_tokens.labels(*labels).inc(counted.baseline_tokens)
        self._counted.clear()

    def close(self) -> None:
        """The replica has left: nothing more is told of it."""
        self._tell()
        self._unfollow()


class Stay:
    """One request's at a replica."""

    __slots__ = ("_chunks", "_meter", "_since")

    def __init__(self, meter: BatchMeter, since: Mapping[int, _Sums]) -> None:
        self._meter = meter
        self._since = since
        self._chunks: dict[int, int] = {}

    def arrived(self, chunks: int) -> None:
        """Of its stream, just now."""
        index = bucket(self._meter.batch_size)
        self._chunks[index] = self._chunks.get(index, 0) + chunks

    def generated(self, tokens: int) -> None:
        """All in all; to be called at its end, while the load still holds it."""
        self._meter.count(self._since, self._chunks, tokens)
