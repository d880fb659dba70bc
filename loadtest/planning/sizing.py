"""How many replicas a traffic needs, of one GPU, parallelism and way of decoding.

Owns the room for requests and the search for the least number of replicas. Refuses to own which of several sizes is
best (plan.py) and how a replica behaves (queueing.py, simulation.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtest.planning.queueing import Decoding, Replica, Steady, Traffic
from loadtest.planning.roofline import Machine
from loadtest.planning.simulation import Outcome, simulate
from loadtest.summary import Objectives

STATIC_SHARE = 0.88
"""Of a GPU's memory, for weights and caches (SGLang's --mem-fraction-static); activations and graphs have the rest."""
_ALONE_PER_S = 1e-6
"""An arrival rate at which a request has the replica to itself."""
_SIMULATED_PASSES = 1_000_000
_SIMULATED_REQUESTS = (300, 2000)
_GIVE_UP = 60


@dataclass(frozen=True)
class Size:
    """A number of replicas that the traffic is shared among, each below its limit."""

    replica: Replica
    replicas: int

    @property
    def gpus(self) -> int:
        """In all."""
        return self.replicas * self.replica.machine.tp

    @property
    def arrivals_per_s(self) -> float:
        """At one replica."""
        return self.replica.traffic.rate_per_s / self.replicas

    @property
    def steady(self) -> Steady:
        """Of one replica."""
        steady = self.replica.steady(self.arrivals_per_s)
        assert steady, "below its limit"
        return steady


@dataclass(frozen=True)
class Checked:
    """A size whose simulated requests kept the objectives."""

    size: Size
    outcome: Outcome


def room(machine: Machine, traffic: Traffic, decoding: Decoding, max_batch: int) -> int:
    """How many requests fit at once, at their full length, beside the weights; 0: not even one."""
    free = (
        STATIC_SHARE * 1e9 * machine.gpu.memory_gb * machine.tp
        - machine.target.parameters * machine.target.weight_bytes
    )
    token_bytes = machine.target.kv_bytes
    if decoding.tree:
        free -= machine.draft.active * machine.draft.weight_bytes
        token_bytes += machine.draft.kv_bytes
    request_bytes = token_bytes * (traffic.prompt_tokens + traffic.answer_tokens)
    return max(min(int(free // request_bytes), max_batch), 0)


def alone(replica: Replica) -> Steady:
    """What a request meets that has the replica to itself: nothing is faster."""
    steady = replica.steady(min(_ALONE_PER_S, replica.limit_per_s / 2))
    assert steady, "half of the limit is below it"
    return steady


def on_paper(replica: Replica, objectives: Objectives, utilisation: float) -> Size | None:
    """The least number of replicas whose means keep the objectives; None if none does."""
    fastest = alone(replica)
    if not _kept(objectives, fastest.ttft_s, fastest.tpot_s):
        return None

    def enough(replicas: int) -> bool:
        steady = replica.steady(replica.traffic.rate_per_s / replicas)
        if steady is None or steady.utilisation > utilisation:
            return False
        return _kept(objectives, steady.ttft_s, steady.tpot_s)

    return Size(replica, _least(enough))


def growing(size: Size) -> Iterator[Size]:
    """That size and larger ones, by a replica or an eighth each; not without end."""
    for _ in range(_GIVE_UP):
        yield size
        size = Size(size.replica, size.replicas + max(size.replicas // 8, 1))


def simulated(size: Size, objectives: Objectives, seed: int) -> Checked | None:
    """That size, if it keeps the objectives for 99 of 100 simulated requests."""
    least, most = _SIMULATED_REQUESTS
    requests = max(least, min(most, _SIMULATED_PASSES // size.replica.traffic.answer_tokens))
    outcome = simulate(size.replica, size.arrivals_per_s, requests=requests, seed=seed)
    kept = _kept(objectives, outcome.ttft_s.percentiles[99], outcome.tpot_s.percentiles[99])
    return Checked(size, outcome) if kept else None


def _kept(objectives: Objectives, ttft_s: float, tpot_s: float) -> bool:
    pairs = ((objectives.ttft_s, ttft_s), (objectives.tpot_s, tpot_s))
    return all(most is None or took <= most for most, took in pairs)


def _least(enough: Callable[[int], bool]) -> int:
    """The least number that is enough, where every larger one is."""
    most = 1
    while not enough(most):
        most *= 2
    too_few = most // 2
    while most - too_few > 1:
        middle = (most + too_few) // 2
        too_few, most = (too_few, middle) if enough(middle) else (middle, most)
    return most
