"""How latencies of requests are distributed: from a comparison's quantiles, or from every request of its raw lines.

Owns reading raw lines and pooling tasks. Refuses to own what is drawn of them (the views).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from loadtest.comparison import Cell, Comparison
from loadtest.document import NotNegative, first_fault
from loadtest.errors import DocumentError
from loadtest.files import numbered_lines
from loadtest.stats import Estimate, percentile, percentile_with_interval

Metric = Literal["ttft_s", "tpot_s", "e2e_s"]
NAMES: dict[Metric, str] = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "end-to-end time",
}
_STEPS = 100


@dataclass(frozen=True)
class Sample:
    """Latencies in seconds, ascending; at least one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Sample | None":
        """None without any."""
        ascending = tuple(sorted(values))
        return cls(ascending) if ascending else None

    def at(self, percent: float) -> float:
        """A percentile."""
        return percentile(self.values, percent)

    def estimate(self, percent: float) -> Estimate:
        """A percentile with its interval."""
        return percentile_with_interval(self.values, percent)

    def curve(self) -> list[tuple[float, float]]:
        """Latency and the share of requests (in percent) that took no longer: every value, or a hundred steps."""
        steps = min(_STEPS, max(1, len(self.values) - 1))
        return [(self.at(100 * step / steps), 100 * step / steps) for step in range(steps + 1)]


Key = tuple[str, int, Metric]
"""A side, a batch size and a latency."""


@dataclass(frozen=True)
class Latencies:
    """Of both sides of a comparison at every batch size, over all tasks."""

    samples: Mapping[Key, Sample]
    tail: int
    """The percentile that may be told of the slowest."""
    source: str
    """In words, for a note."""


def of_quantiles(comparison: Comparison, cells: Sequence[Cell]) -> Latencies:
    """From the quantiles in the file: tasks weigh the same."""
    pooled: dict[Key, list[float]] = defaultdict(list)
    for cell in cells:
        for side, measured in (("a", cell.a), ("b", cell.b)):
            for metric in NAMES:
                pooled[side, cell.batch_size, metric] += getattr(measured, metric) or ()
    pools = "; every task weighs the same" if len(comparison.workload.tasks) > 1 else ""
    return Latencies(_samples(pooled), 95, f"From the file's quantiles, one every 5%{pools}.")


def of_raw(path: Path, cells: Sequence[Cell]) -> Latencies:
    """From every request that was answered.

    Raises:
        DocumentError: the lines cannot be read, or are not those of these cells.
    """
    missing = {(side, cell.task, cell.batch_size) for cell in cells for side in ("a", "b")}
    wanted = frozenset(missing)
    pooled: dict[Key, list[float]] = defaultdict(list)
    requests = 0
    for line in raw_lines(path):
        if (line.side, line.task, line.batch_size) not in wanted or not line.answered:
            continue
        assert line.side is not None  # or it would not be wanted
        assert line.batch_size is not None
        requests += 1
        missing.discard((line.side, line.task or "", line.batch_size))
        for metric in NAMES:
            pooled[line.side, line.batch_size, metric] += line.values(metric)
    for side, task, batch_size in sorted(missing):
        raise DocumentError(
            f"{path}: has no answer of side {side}, {task}, batch size {batch_size}: not this result's raw lines"
        )
    return Latencies(_samples(pooled), 99, f"From all {requests:,} raw requests.")


class RawLine(BaseModel):
    """What is read of a raw line (raw.py); other fields are left alone."""

    side: str | None = None
    stage: str | None = None
    task: str | None = None
    batch_size: int | None = None
    failure: str | None = None
    left_after_tokens: float | None = None
    sent_s: float = 0.0
    ttft_s: NotNegative | None = None
    tpot_s: NotNegative | None = None
    e2e_s: NotNegative | None = None
    correct_drafts: int | None = None
    verify_passes: int | None = None

    @property
    def answered(self) -> bool:
        """Whole: it neither failed nor was left."""
        return self.failure is None and self.left_after_tokens is None

    def values(self, metric: Metric) -> tuple[float, ...]:
        """One, or none."""
        value: float | None = getattr(self, metric)
        return () if value is None else (value,)


def raw_lines(path: Path) -> Iterator[RawLine]:
    """Raw lines, as `--raw` left them.

    Raises:
        DocumentError: unreadable, or a line is something else.
    """
    try:
        numbered = numbered_lines(path.read_bytes())
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    for number, line in numbered:
        try:
            yield RawLine.model_validate_json(line)
        except ValidationError as error:
            raise DocumentError(f"{path}:{number}: not a line of raw figures ({first_fault(error)})") from error


def _samples(pooled: Mapping[Key, Sequence[float]]) -> dict[Key, Sample]:
    samples = {key: Sample.of(values) for key, values in pooled.items()}
    return {key: sample for key, sample in samples.items() if sample}
