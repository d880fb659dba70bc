"""What is known of one request: when its tokens came, how many, and what went wrong.

Owns these figures and what follows from one request alone. Refuses to own the wire (stream.py, client.py) and sums
over many requests (window.py). Times are seconds of `time.perf_counter`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, takewhile, zip_longest
from typing import Literal

FailureKind = Literal["unreachable", "timeout", "broken", "refused", "garbage"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that did not end well; `broken` is the connection, `refused` the endpoint's own words."""

    kind: FailureKind
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Of one request, or summed over several."""

    correct_drafts: int
    verify_passes: int
    accepted_by_position: tuple[int, ...] = ()
    """Passes that accepted the first draft, the second, and so on; empty where the endpoint does not tell."""

    def __add__(self, other: "Acceptance") -> "Acceptance":
        positions = zip_longest(self.accepted_by_position, other.accepted_by_position, fillvalue=0)
        return Acceptance(
            self.correct_drafts + other.correct_drafts,
            self.verify_passes + other.verify_passes,
            tuple(ours + theirs for ours, theirs in positions),
        )

    @property
    def length(self) -> float | None:
        """Tau: 1 + correct drafts / verify passes; None before the first pass."""
        return 1 + self.correct_drafts / self.verify_passes if self.verify_passes else None

    @property
    def alphas(self) -> tuple[float, ...]:
        """n-alpha of a chain: of the passes that accepted n drafts, the share that accepted the next one too."""
        steps = pairwise((self.verify_passes, *self.accepted_by_position))
        return tuple(after / before for before, after in takewhile(lambda step: step[0] > 0, steps))

    @classmethod
    def total(cls, told: Iterable["Acceptance | None"]) -> "Acceptance | None":
        """Of all that told it; None if none did."""
        known = [each for each in told if each is not None]
        return sum(known, cls(0, 0)) if known else None


@dataclass(frozen=True, slots=True)
class Arrival:
    """At this time so many tokens of an answer had come in all."""

    at_s: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer; tokens are counted by the endpoint's usage, never by chunks."""

    arrivals: tuple[Arrival, ...]
    """Ascending; the last one has `completion_tokens`. Empty for an answer without tokens."""
    prompt_tokens: int
    completion_tokens: int
    acceptance: Acceptance | None = None
    text: str | None = None
    """None: it was not asked for."""


@dataclass(frozen=True, slots=True)
class Left:
    """The client went away in the middle of the answer, as it was told to."""

    tokens: int
    """That had come by then."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was sent, and what came of it."""

    sent_s: float
    ended_s: float
    outcome: Answer | Failure | Left

    @property
    def answer(self) -> Answer | None:
        """None if there is none."""
        return self.outcome if isinstance(self.outcome, Answer) else None

    @property
    def failure(self) -> Failure | None:
        """None if it went well."""
        return self.outcome if isinstance(self.outcome, Failure) else None

    @property
    def left(self) -> Left | None:
        """None if its client stayed."""
        return self.outcome if isinstance(self.outcome, Left) else None

    @property
    def e2e_s(self) -> float:
        """From sending to the end."""
        return self.ended_s - self.sent_s

    @property
    def ttft_s(self) -> float | None:
        """To the first token."""
        answer = self.answer
        return answer.arrivals[0].at_s - self.sent_s if answer and answer.arrivals else None

    @property
    def itl_s(self) -> tuple[float, ...]:
        """Between the arrivals of tokens; under speculation one brings several."""
        answer = self.answer
        return tuple(after.at_s - before.at_s for before, after in pairwise(answer.arrivals)) if answer else ()

    @property
    def tpot_s(self) -> float | None:
        """Per token after the first arrival: true to tokens, however many a chunk brings; None if it brought all."""
        answer = self.answer
        if answer is None or not answer.arrivals or answer.arrivals[0].tokens == answer.arrivals[-1].tokens:
            return None
        first, last = answer.arrivals[0], answer.arrivals[-1]
        return (last.at_s - first.at_s) / (last.tokens - first.tokens)
