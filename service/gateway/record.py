"""What is known of one request: filled in along its way, read once at its end by the log and the metrics.

Owns the fields and the outcome. Refuses to own prompts, answers and headers: they never enter a record.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from service.gateway.errors import GatewayError
from service.speculation import acceptance_length

TASK_HEADER = "x-aerie-task"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @classmethod
    def of(cls, status: int) -> "Outcome":
        """4xx is the client's doing, 499 its leaving, 5xx ours or the runtime's."""
        if status == 499:
            return cls.CANCELLED
        if status >= 500:
            return cls.ERROR
        return cls.REJECTED if status >= 400 else cls.OK


class Usage(NamedTuple):
    """Tokens of one request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Speculation:
    """Acceptance figures, summed over choices. `histogram[j]`: verify passes with exactly j correct drafts."""

    verify_passes: int
    correct_drafts: int
    proposed_drafts: int
    histogram: tuple[int, ...]

    @property
    def acceptance_length(self) -> float | None:
        """Tau; None before the first verify pass."""
        return acceptance_length(self.correct_drafts, self.verify_passes) if self.verify_passes else None

    def accepted_at(self) -> list[int]:
        """How many verify passes accepted the draft at position 1, 2, ...: sums of the histogram's tails."""
        tails: list[int] = []
        total = 0
        for passes in reversed(self.histogram[1:]):
            total += passes
            tails.append(total)
        return tails[::-1]


class Spans(Protocol):
    """What spans.py makes, where it is switched on."""

    def attempt(self, record: "RequestRecord", url: str, path: str) -> AbstractContextManager[str]:
        """Around one attempt at a replica."""


@dataclass(slots=True)
class RequestRecord:
    """One request, from its first byte to its last."""

    request_id: str
    method: str
    path: str
    started_s: float = field(default_factory=time.perf_counter)
    ended_s: float | None = None
    route: str = "unmatched"
    status: int = 0
    failure: GatewayError | None = None
    key_id: str | None = None
    key_class: str | None = None
    pool: str | None = None
    reason: str | None = None
    """Why this pool."""
    queued_s: float = 0.0
    model: str | None = None
    task: str = "other"
    """What kind of work its client says it is, if the operator has named that kind."""
    stream: bool = False
    choices: int = 1
    first_chunk_s: float | None = None
    last_chunk_s: float | None = None
    usage: Usage | None = None
    speculation: Speculation | None = None
    trace: str = ""
    """Header lines that tell the runtime of the client's trace."""
    spans: Spans | None = None
    """Of this request, where they are made."""

    @property
    def outcome(self) -> Outcome:
        """A failure after the headers went out counts, whatever they said."""
        return Outcome.of(self.failure.status if self.failure else self.status)

    @property
    def duration_s(self) -> float:
        """So far, or in all."""
        return (self.ended_s or time.perf_counter()) - self.started_s

    @property
    def time_to_first_token_s(self) -> float | None:
        """Streams only: from the request to the first event passed on."""
        return None if self.first_chunk_s is None else self.first_chunk_s - self.started_s

    @property
    def time_per_output_token_s(self) -> float | None:
        """(last chunk - first chunk) / (tokens - 1); a chunk can hold several tokens, so tokens come from usage."""
        if self.first_chunk_s is None or self.last_chunk_s is None or self.usage is None or self.choices != 1:
            return None
        steps = self.usage.completion_tokens - 1
        return (self.last_chunk_s - self.first_chunk_s) / steps if steps > 0 else None

    def chunk(self, now_s: float) -> float | None:
        """Note a chunk passed on; its distance from the one before, None for the first."""
        gap_s = None if self.last_chunk_s is None else now_s - self.last_chunk_s
        if self.first_chunk_s is None:
            self.first_chunk_s = now_s
        self.last_chunk_s = now_s
        return gap_s
