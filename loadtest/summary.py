"""What requests of a load come to: rates, latencies by percentile, goodput under objectives, acceptance.

Owns these figures, of requests that have ended. Refuses to own measuring and looks (load_text.py).
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtest.document import Part
from loadtest.record import Acceptance, Request
from loadtest.stats import percentile

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Objectives:
    """What a request must keep to be good, in seconds; None: anything is."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def met_by(self, request: Request) -> bool:
        """Whether it was answered and kept all of them.

        An answer without a token has no first one in time; one that came at once has no time per token to miss.
        """
        if request.answer is None or (self.ttft_s is not None and request.ttft_s is None):
            return False
        pairs = ((self.ttft_s, request.ttft_s), (self.tpot_s, request.tpot_s), (self.e2e_s, request.e2e_s))
        return all(most is None or took is None or took <= most for most, took in pairs)


@dataclass(frozen=True)
class Distribution:
    """Of a latency, in seconds."""

    mean: float
    percentiles: dict[int, float]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Distribution | None":
        """Of those that are known; None if none is."""
        known = sorted(value for value in values if value is not None)
        if not known:
            return None
        return cls(statistics.fmean(known), {percent: percentile(known, percent) for percent in PERCENTILES})


class Summary(Part):
    """Of a load; rates per second of its wall time."""

    requests: int
    answered: int
    left: int
    """Whose clients went away, as they were told to: neither answered nor failed."""
    failures: dict[str, int]
    """By kind."""
    good: int | None
    """Answered within the objectives; None without any."""
    requests_per_s: float
    """Answered."""
    good_per_s: float | None
    prompt_tokens: int
    """Of answered requests, as are the other tokens and latencies."""
    completion_tokens: int
    completion_tokens_per_s: float
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    """Between arrivals; under speculation one brings several tokens."""
    e2e_s: Distribution | None
    acceptance_length: float | None
    """Tau, every request weighted by its verify passes; None where the endpoint does not tell."""

    @property
    def failed(self) -> int:
        """Of any kind."""
        return sum(self.failures.values())

    @property
    def good_share(self) -> float | None:
        """Of those whose clients stayed; None without objectives, or without any."""
        stayed = self.requests - self.left
        return self.good / stayed if self.good is not None and stayed else None


def summarise(requests: Sequence[Request], wall_s: float, objectives: Objectives) -> Summary:
    """The figures; latencies are of answered requests."""
    answered = [request for request in requests if request.answer is not None]
    answers = [request.answer for request in answered if request.answer is not None]
    tokens = sum(answer.completion_tokens for answer in answers)
    acceptance = Acceptance.total(answer.acceptance for answer in answers)
    good = sum(map(objectives.met_by, answered)) if objectives != Objectives() else None
    return Summary(
        requests=len(requests),
        answered=len(answered),
        left=sum(request.left is not None for request in requests),
        failures=dict(Counter(request.failure.kind for request in requests if request.failure is not None)),
        good=good,
        requests_per_s=_rate(len(answered), wall_s),
        good_per_s=None if good is None else _rate(good, wall_s),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=tokens,
        completion_tokens_per_s=_rate(tokens, wall_s),
        ttft_s=Distribution.of(request.ttft_s for request in answered),
        tpot_s=Distribution.of(request.tpot_s for request in answered),
        itl_s=Distribution.of(gap_s for request in answered for gap_s in request.itl_s),
        e2e_s=Distribution.of(request.e2e_s for request in answered),
        acceptance_length=acceptance.length if acceptance else None,
    )


def _rate(count: float, wall_s: float) -> float:
    return count / wall_s if wall_s > 0 else 0.0
