"""A replica under traffic by chance: a discrete-event simulation of continuous batching.

Owns what a server does in order: finish the pass, read one waiting prompt if there is room, else decode once for all
that run. Refuses to own the times of these (queueing.py). It checks the steady state on paper and tells percentiles.
Prompts and answers have their mean lengths and every cycle keeps tau tokens; arrivals are a seeded Poisson process.
"""

from collections import deque
from dataclasses import dataclass
from itertools import islice

from loadtest.arrivals import random_arrivals
from loadtest.planning.queueing import Replica
from loadtest.summary import Distribution

WARM_UP = 0.2
"""Share of the requests at the beginning that is not counted: the replica starts empty."""


@dataclass(frozen=True)
class Outcome:
    """Of the counted requests."""

    ttft_s: Distribution
    tpot_s: Distribution
    batch: float
    """Requests that decode, on average over time."""


@dataclass
class _Running:
    arrived_s: float
    first_s: float
    ends_at: float
    """Of the replica's count of tokens per request."""


def simulate(replica: Replica, arrivals_per_s: float, *, requests: int = 2000, seed: int = 0) -> Outcome:
    """Serve so many requests.

    Args:
        replica: what serves.
        arrivals_per_s: at this replica.
        requests: in all, the uncounted ones at the beginning included.
        seed: of the arrivals.
    """
    waiting = deque(islice(random_arrivals(arrivals_per_s, seed=seed), requests))
    counted_from_s = waiting[int(requests * WARM_UP)]
    last_arrival_s = waiting[-1]
    running: deque[_Running] = deque()
    done: list[tuple[float, float, float]] = []
    now_s = tokens = occupied_s = 0.0
    answer = max(replica.traffic.answer_tokens - 1, 1)
    while waiting or running:
        if not running:
            now_s = max(now_s, waiting[0])
        if waiting and waiting[0] <= now_s and len(running) < replica.most:
            spent_s = replica.prefill_s
            now_s += spent_s
            running.append(_Running(waiting.popleft(), now_s, tokens + answer))
            decoding = len(running) - 1
        else:
            decoding = len(running)
            spent_s = replica.pass_times_s[decoding - 1]
            now_s += spent_s
            tokens += replica.decoding.tau
        if counted_from_s <= now_s <= last_arrival_s:
            occupied_s += decoding * spent_s
        # answers are equally long, so the first to start is the first to end
        while running and running[0].ends_at <= tokens:
            ended = running.popleft()
            done.append((ended.arrived_s, ended.first_s, now_s))
    counted = [request for request in done if request[0] >= counted_from_s]
    ttft_s = Distribution.of(first_s - arrived_s for arrived_s, first_s, _ in counted)
    tpot_s = Distribution.of((end_s - first_s) / answer for _, first_s, end_s in counted)
    assert ttft_s, "some requests are counted"
    assert tpot_s, "and the same ones"
    return Outcome(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        batch=occupied_s / (last_arrival_s - counted_from_s),
    )
