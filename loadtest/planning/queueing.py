"""A replica under traffic: how many requests it decodes at once, and what they wait for.

Owns the steady state on paper. Refuses to own the step times (roofline.py) and chance (simulation.py).

Continuous batching shares a replica among its requests: with n of them each gets tau tokens in a pass over n. As
a queue that is processor sharing whose rate depends on n, and its steady state is a product form that knows the lengths
of answers by their mean only (Kelly, Reversibility and Stochastic Networks, 1979, chapter 3). Prompts pause decoding
while they are read. Little's law, batch = arrivals x time, turns the mean batch into times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

from loadtest.planning.roofline import Machine
from loadtest.tree import Tree


@dataclass(frozen=True)
class Traffic:
    """What all replicas get together; lengths are means."""

    rate_per_s: float
    prompt_tokens: int
    answer_tokens: int

    @property
    def context(self) -> float:
        """What a decoded token looks back at, on average."""
        return self.prompt_tokens + self.answer_tokens / 2


@dataclass(frozen=True)
class Decoding:
    """With a tree, or plain (None): seconds per pass and tokens kept of it."""

    tree: Tree | None
    tau: float

    def pass_s(self, machine: Machine, batch: float, context: float) -> float:
        """One step, or one cycle."""
        return machine.cycle_s(self.tree, batch, context) if self.tree else machine.step_s(batch, context)

    @property
    def name(self) -> str:
        """For people."""
        return str(self.tree) if self.tree else "none"


PLAIN = Decoding(None, 1.0)


@dataclass(frozen=True)
class Steady:
    """Means, in the long run."""

    batch: float
    waiting: float
    ttft_s: float
    tpot_s: float
    utilisation: float
    """Arrivals over what the replica can take at most."""


@dataclass(frozen=True)
class Replica:
    """One machine that decodes in one way, with room for `most` requests."""

    machine: Machine
    decoding: Decoding
    traffic: Traffic
    most: int

    @cached_property
    def pass_times_s(self) -> tuple[float, ...]:
        """By batch size, from 1."""
        context = self.traffic.context
        return tuple(self.decoding.pass_s(self.machine, batch, context) for batch in range(1, self.most + 1))

    @cached_property
    def prefill_s(self) -> float:
        """Of one prompt."""
        return self.machine.prefill_s(self.traffic.prompt_tokens)

    @property
    def limit_per_s(self) -> float:
        """Arrivals per second beyond which its queue grows without end: prompts and answers fill all of its time."""
        answer_s = self._decoded_tokens * self.pass_times_s[-1] / self.decoding.tau / self.most
        return 1 / (self.prefill_s + answer_s)

    @property
    def _decoded_tokens(self) -> int:
        return max(self.traffic.answer_tokens - 1, 1)

    def steady(self, arrivals_per_s: float) -> Steady | None:
        """The steady state; None where there is none."""
        utilisation = arrivals_per_s / self.limit_per_s
        if utilisation >= 1:
            return None
        prefilling = arrivals_per_s * self.prefill_s
        work = arrivals_per_s * self._decoded_tokens / self.decoding.tau / (1 - prefilling)
        running, waiting = occupancy([work * pass_s / batch for batch, pass_s in enumerate(self.pass_times_s, 1)])
        batch = sum(number * share for number, share in enumerate(running))
        pass_ends_s = sum(share * pass_s / 2 for share, pass_s in zip(running[1:], self.pass_times_s, strict=True))
        prompts_before_s = prefilling * self.prefill_s / (2 * (1 - prefilling))
        return Steady(
            batch=batch,
            waiting=waiting,
            ttft_s=waiting / arrivals_per_s + pass_ends_s + prompts_before_s + self.prefill_s,
            tpot_s=batch / arrivals_per_s / self._decoded_tokens,
            utilisation=utilisation,
        )


def occupancy(loads: Sequence[float]) -> tuple[list[float], float]:
    """Shares of time with 0, 1, ... requests running, and how many wait on average.

    Args:
        loads: arrivals over completions where 1, 2, ... requests run. The last is below 1; past it requests wait.
    """
    last = loads[-1]
    weights = [1.0, *accumulate(loads, mul)]
    beyond = weights[-1] * last / (1 - last)  # all states in which some wait, a geometric series
    total = sum(weights) + beyond
    shares = [weight / total for weight in weights]
    shares[-1] += beyond / total
    return shares, beyond / total / (1 - last)
