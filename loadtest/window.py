"""Sums over the requests of a run: throughput in its steady window, and the pace of decoding alone.

Owns this accounting, without a clock or a connection. A token counts where it arrived: of a request that the window's
edge cuts, only the tokens that came inside.

Decoding alone is timed between two arrivals of a request while every worker's request was decoding: a gap in which
anybody waited for a first token (the endpoint was at a prompt) or was between two requests (the batch was smaller) is
left out. Such gaps are taken from the whole run, its beginning included.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from loadtest.closed_loop import Run
from loadtest.errors import NoWindow
from loadtest.record import Acceptance, Answer, Arrival, Request

Span = tuple[float, float]


@dataclass(frozen=True)
class Figures:
    """What a run comes to."""

    tokens_per_s: float
    """Of the whole batch, prompts' time included."""
    token_s: float
    """Seconds per token of one request while all decode: the step time of a baseline."""
    acceptance: Acceptance | None
    prompt_tokens: tuple[int, ...]
    window_s: float
    end_s: float
    """Of the window, by `time.perf_counter`."""
    client_cpu_share: float
    """Of one CPU, spent by this client."""


def figures(run: Run) -> Figures:
    """The figures of a run without failures.

    Raises:
        NoWindow: it has no steady window, or no gap in which all workers decoded.
    """
    start_s, end_s = run.window()
    answers = [request.answer for request in run.requests if request.answer]
    tokens = tokens_between(answers, start_s, end_s)
    if not tokens:
        raise NoWindow(f"batch size {run.concurrency}: no token arrived in the steady window; raise --passes")
    return Figures(
        tokens_per_s=tokens / (end_s - start_s),
        token_s=decode_token_s(run.requests, run.concurrency),
        acceptance=Acceptance.total(answer.acceptance for answer in answers),
        prompt_tokens=tuple(answer.prompt_tokens for answer in answers),
        window_s=end_s - start_s,
        end_s=end_s,
        client_cpu_share=run.cpu_s / run.wall_s,
    )


def tokens_between(answers: Sequence[Answer], start_s: float, end_s: float) -> float:
    """Tokens that arrived after `start_s`, until `end_s`."""
    return sum(_tokens_until(answer, end_s) - _tokens_until(answer, start_s) for answer in answers)


def _tokens_until(answer: Answer, at_s: float) -> float:
    return max((arrival.tokens for arrival in answer.arrivals if arrival.at_s <= at_s), default=0)


def decode_token_s(requests: Sequence[Request], concurrency: int) -> float:
    """Seconds per token of a request while `concurrency` requests decode and nobody waits for a first token.

    Raises:
        NoWindow: there was no such time.
    """
    spans = all_decoding(requests, concurrency)
    answers = (request.answer for request in requests if request.answer)
    gaps = [gap for answer in answers for gap in pairwise(answer.arrivals) if _within(gap, spans)]
    seconds = sum(after.at_s - before.at_s for before, after in gaps)
    tokens = sum(after.tokens - before.tokens for before, after in gaps)
    if not (seconds and tokens):
        raise NoWindow(f"batch size {concurrency}: answers are too short to time decoding alone; raise --max-tokens")
    return seconds / tokens


def _within(gap: tuple[Arrival, Arrival], spans: Sequence[Span]) -> bool:
    before, after = gap
    index = bisect_right(spans, before.at_s, key=lambda span: span[0]) - 1
    return index >= 0 and after.at_s <= spans[index][1]


def all_decoding(requests: Sequence[Request], concurrency: int) -> list[Span]:
    """The times in which `concurrency` requests were between their first and their last token; ascending."""
    decoding = [request.answer.arrivals for request in requests if request.answer and request.answer.arrivals]
    edges = sorted([(each[0].at_s, 1) for each in decoding] + [(each[-1].at_s, -1) for each in decoding])
    counts = list(accumulate(change for _, change in edges))[:-1]
    spans = [(at_s, until_s) for (at_s, _), (until_s, _) in pairwise(edges)]
    return [span for span, count in zip(spans, counts, strict=True) if count == concurrency]
