"""A finished request in the time series: counted once, whatever its outcome.

Owns which series a record goes into, and the bounds on what clients can make of labels. Refuses to own the series
(metrics.py) and when: the middleware calls `observe` at a request's end.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter

from service.gateway.metrics import Metrics
from service.gateway.record import Outcome, RequestRecord, Speculation

POSITIONS = 16
"""Draft positions with a label of their own; deeper ones share the label `17+`."""
PROMPT_LENGTHS = (128, 512, 2048, 8192, 32768)
"""Upper bounds of prompt tokens; longer prompts share the label `+Inf`."""
CLASSES = 512
"""Of requests (pool, task, prompt length, key class) with acceptance figures of their own; further ones share one."""
OTHER = "other"

_Alike = tuple[str, Outcome, int, str | None, str | None]
"""Route, outcome, hundreds of the status, class of the key, pool."""


def prompt_length(tokens: int) -> str:
    """The label of a prompt of so many tokens."""
    return next((str(bound) for bound in PROMPT_LENGTHS if tokens <= bound), "+Inf")


@dataclass(slots=True)
class _Tally:
    """Of finished requests that are alike, not told yet: five counters cost more than three numbers."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Recorder:
    """Counts finished requests. Finding a series by its labels costs more than counting: each is found once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tallies: defaultdict[_Alike, _Tally] = defaultdict(_Tally)
        self._duration = cache(metrics.duration.labels)
        self._first_token = cache(metrics.time_to_first_token.labels)
        self._per_token = cache(metrics.time_per_output_token.labels)
        self._accepted = cache(metrics.accepted_drafts.labels)
        self._acceptance = cache(metrics.acceptance_length.labels)
        self._of_class: dict[tuple[str, ...], tuple[Counter, ...]] = {}
        metrics.before_collection(self._tell)

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request, whatever its outcome."""
        route, outcome = record.route, record.outcome
        tally = self._tallies[route, outcome, record.status // 100, record.key_class, record.pool]
        tally.requests += 1
        if outcome == "ok":
            self._duration(route).observe(record.duration_s)
        if record.pool is not None:
            self._observe_generation(record, record.pool, tally)

    def _tell(self) -> None:
        """Count: not before somebody reads."""
        metrics = self._metrics
        for (route, outcome, hundreds, key_class, pool), tally in self._tallies.items():
            metrics.requests.labels(route, outcome, f"{hundreds}xx").inc(tally.requests)
            if key_class is not None:
                metrics.of_class.labels(key_class, outcome).inc(tally.requests)
            if pool is not None:
                metrics.pool_requests.labels(pool, outcome).inc(tally.requests)
                metrics.prompt_tokens.labels(pool).inc(tally.prompt_tokens)
                metrics.completion_tokens.labels(pool).inc(tally.completion_tokens)
        self._tallies.clear()

    def _observe_generation(self, record: RequestRecord, pool: str, tally: _Tally) -> None:
        if (first_s := record.time_to_first_token_s) is not None:
            self._first_token(record.route, pool).observe(first_s)
        if (token_s := record.time_per_output_token_s) is not None:
            self._per_token(record.route, pool).observe(token_s)
        if record.usage is not None:
            tally.prompt_tokens += record.usage.prompt_tokens
            tally.completion_tokens += record.usage.completion_tokens
            if record.speculation is not None:
                length = prompt_length(record.usage.prompt_tokens)
                of_class = (pool, record.task, length, record.key_class or "none")
                self._observe_speculation(record.speculation, of_class)

    def _observe_speculation(self, speculation: Speculation, of_class: tuple[str, ...]) -> None:
        passes, proposed, correct = self._of_class.get(of_class) or self._counters(of_class)
        passes.inc(speculation.verify_passes)
        proposed.inc(speculation.proposed_drafts)
        correct.inc(speculation.correct_drafts)
        pool = of_class[0]
        for position, accepting in enumerate(speculation.accepted_at(), start=1):
            self._accepted(pool, str(position) if position <= POSITIONS else f"{POSITIONS + 1}+").inc(accepting)
        if (tau := speculation.acceptance_length) is not None:
            self._acceptance(pool).observe(tau)

    def _counters(self, of_class: tuple[str, ...]) -> tuple[Counter, ...]:
        if len(self._of_class) >= CLASSES:
            of_class = (of_class[0], OTHER, OTHER, OTHER)
        families = (self._metrics.verify_passes, self._metrics.proposed_drafts, self._metrics.correct_drafts)
        counters = tuple(family.labels(*of_class) for family in families)
        self._of_class[of_class] = counters
        return counters
