"""What both pools did in the time that is judged, counted by Prometheus.

Owns the queries. Refuses to own what the counts mean (estimate.py, judge.py). Everything is the growth of a counter
(docs/metrics.md), block by block, so any number of gateways and replicas adds up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.rollout.estimate import Block, Counts
from service.rollout.prometheus import Prometheus
from service.rollout.situation import Pair, Window


class Rate(NamedTuple):
    """Events by exposure, compared within strata: what of the traffic may differ between the pools, by its labels."""

    events: str
    exposure: str
    strata: str


SPEED = Rate("aerie_batch_completion_tokens_total", "aerie_batch_busy_seconds_total", "batch_size")
"""Tokens per second of a replica's work at a batch size. At equal batch sizes the baseline is the same, so the ratio of
two pools' throughputs is that of their speedups."""
ACCEPTANCE = Rate("aerie_spec_correct_drafts_total", "aerie_spec_verify_passes_total", "task, prompt_length")
FIRST_TOKEN = Rate("aerie_time_to_first_token_seconds_sum", "aerie_time_to_first_token_seconds_count", "route")
OUTPUT_TOKEN = Rate("aerie_time_per_output_token_seconds_sum", "aerie_time_per_output_token_seconds_count", "route")

_REQUESTS = 'aerie_pool_requests_total{%s,outcome!="rejected"}'
_ERRORS = 'aerie_pool_requests_total{%s,outcome="error"}'
_CHECKED = 'aerie_losslessness_checks_total{%s,result!="failed"}'
_MISMATCHES = 'aerie_losslessness_checks_total{%s,result="mismatch"}'
_SPEEDUP = """
sum by (pool) (increase(aerie_batch_calibrated_tokens_total{%(of)s}[%(within)dms]))
/ (sum by (pool) (increase(aerie_batch_baseline_tokens_total{%(of)s}[%(within)dms])) > 0)
"""


class Checked(NamedTuple):
    """Greedy answers of a pool that were compared with the target's."""

    mismatches: float
    answers: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts of the window, block by block."""

    speed: Sequence[Block]
    acceptance: Sequence[Block]
    """Events are tokens: the accepted drafts and the bonus token of each pass."""
    first_token: Sequence[Block]
    output_token: Sequence[Block]
    errors: Sequence[Counts]
    mismatches: Sequence[Counts]
    """Answers that were not the target's, of those that were compared with it."""
    speedups: Mapping[str, float]
    """Over the calibrated baseline, of pools whose calibration is valid: for readers, not judged."""

    @property
    def requests(self) -> tuple[float, float]:
        """Of the canary and of the stable pool."""
        return sum(one.canary_exposure for one in self.errors), sum(one.stable_exposure for one in self.errors)

    @property
    def checked(self) -> tuple[Checked, Checked]:
        """The canary's answers and the stable pool's."""
        totals = [sum(column) for column in zip(*self.mismatches, strict=True)] or [0.0] * 4
        return Checked(*totals[:2]), Checked(*totals[2:])


def gather(prometheus: Prometheus, pair: Pair, window: Window) -> Evidence:
    """Ask for everything.

    Raises:
        RolloutError: Prometheus does not answer.
    """
    asked = _Asked(prometheus, pair, window)
    within_ms = int((window.end_s - window.start_s) * 1000)
    speedups = prometheus.at(_SPEEDUP % {"of": pair.matchers, "within": within_ms}, window.end_s)
    return Evidence(
        speed=asked.rate(SPEED),
        acceptance=[{name: _with_bonus(counts) for name, counts in block.items()} for block in asked.rate(ACCEPTANCE)],
        first_token=asked.rate(FIRST_TOKEN),
        output_token=asked.rate(OUTPUT_TOKEN),
        errors=asked.shares(_ERRORS, _REQUESTS),
        mismatches=asked.shares(_MISMATCHES, _CHECKED),
        speedups={one.labels["pool"]: value for one in speedups for value in one.values.values()},
    )


def _with_bonus(counts: Counts) -> Counts:
    """Tokens instead of drafts: by verify passes that is the acceptance length, 1 + correct drafts / passes."""
    return counts._replace(
        canary_events=counts.canary_events + counts.canary_exposure,
        stable_events=counts.stable_events + counts.stable_exposure,
    )


class _Asked:
    def __init__(self, prometheus: Prometheus, pair: Pair, window: Window) -> None:
        self._prometheus, self._pair, self._window = prometheus, pair, window

    def rate(self, rate: Rate) -> list[Block]:
        return self.blocks(rate.events + "{%s}", rate.exposure + "{%s}", rate.strata)

    def shares(self, events: str, exposure: str) -> list[Counts]:
        return [block.get("", Counts(0, 0, 0, 0)) for block in self.blocks(events, exposure, "")]

    def blocks(self, events: str, exposure: str, strata: str) -> list[Block]:
        """Two counters' growth, by block and stratum."""
        found: list[dict[str, list[float]]] = [{} for _ in range(self._window.blocks)]
        for offset, selector in enumerate((events, exposure)):
            for block, stratum, pool, value in self._growth(selector, strata):
                of_stable = 2 * (pool == self._pair.stable)
                found[block].setdefault(stratum, [0.0] * 4)[offset + of_stable] += value
        return [{name: Counts(*values) for name, values in block.items()} for block in found]

    def _growth(self, selector: str, strata: str) -> list[tuple[int, str, str, float]]:
        window, labels = self._window, [label for label in strata.split(", ") if label]
        by = ", ".join(["pool", *labels])
        expr = f"sum by ({by}) (increase({selector % self._pair.matchers}[{window.block_s * 1000:.0f}ms]))"
        first_s = window.start_s + window.block_s
        return [
            (
                round((time_s - first_s) / window.block_s),
                "|".join(one.labels.get(label, "") for label in labels),
                one.labels["pool"],
                value,
            )
            for one in self._prometheus.between(expr, first_s, window.end_s, window.block_s)
            for time_s, value in one.values.items()
        ]
