"""One replica's circuit breaker: whether requests may go there, judged by how the last ones went.

Owns the state machine. Refuses to own what a failure is (pool.py says), time and chance (injected), and readiness: a
replica whose probes fail takes no requests whatever its breaker says.

Closed, it lets everything through and opens at `failures` failures among the last `window` requests. That is one rule
for a replica that is dead (as many failures in a row) and for one that fails every second request, which a count of
consecutive failures would never catch. Open, it lets nothing through for a back-off that doubles with every failed
trial, up to a bound. Then it is half-open: one trial request at a time, until one ends well or badly.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Whether requests may pass: all, none, one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long. Jitter shortens a back-off by up to half: gateways do not return all at once."""

    failures: int = 5
    window: int = 10
    backoff_s: float = 1
    backoff_limit_s: float = 30

    def __post_init__(self) -> None:
        if not 1 <= self.failures <= self.window:
            raise ValueError(f"need 1 <= failures <= window, got {self.failures} and {self.window}")
        if not 0 < self.backoff_s <= self.backoff_limit_s:
            raise ValueError(f"need 0 < backoff_s <= backoff_limit_s, got {self.backoff_s} and {self.backoff_limit_s}")


class Breaker:
    """Closed, open or half-open. `enter` lets a request through; the permit it gives takes the request's outcome."""

    def __init__(self, policy: BreakerPolicy, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._failed: deque[bool] = deque(maxlen=policy.window)
        self._open_until_s: float | None = None
        self._trips = 0  # in a row, without a success between them
        self._era = 0  # ends when the breaker opens
        self._trial: Permit | None = None

    @property
    def state(self) -> State:
        """What it is now: an open breaker becomes half-open by time alone."""
        if self._open_until_s is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until_s else State.HALF_OPEN

    @property
    def reason(self) -> str | None:
        """Why nothing may pass; None when a request may."""
        if self._open_until_s is None:
            return None
        match self.state:
            case State.OPEN:
                return "Too many of its last requests failed."
            case State.HALF_OPEN if self._trial is not None:
                return "A trial request is under way after too many failed."
            case _:
                return None

    def enter(self) -> "Permit":
        """Let a request through; only while `reason` is None."""
        assert self.reason is None, "the caller asks first"
        permit = Permit(self, self._era)
        if self.state is State.HALF_OPEN:
            self._trial = permit
        return permit

    def settle(self, permit: "Permit", *, failed: bool | None) -> None:
        """A permit's outcome; None gives a trial's place back.

        What was let through before the breaker last opened says nothing new, however late it ends.
        """
        if permit is self._trial:
            self._trial = None
            if failed is not None:
                self._end_trial(failed=failed)
        elif permit.era == self._era and failed is not None:
            self._failed.append(failed)
            if failed and sum(self._failed) >= self._policy.failures:
                self._open()

    def _end_trial(self, *, failed: bool) -> None:
        if failed:
            self._open()
        else:
            self._open_until_s, self._trips = None, 0

    def _open(self) -> None:
        policy = self._policy
        backoff_s = min(policy.backoff_s * 2.0 ** min(self._trips, 60), policy.backoff_limit_s)
        self._open_until_s = self._clock() + backoff_s * self._rng.uniform(0.5, 1)
        self._trips += 1
        self._era += 1
        self._failed.clear()


class Permit:
    """One request that was let through. The first outcome counts, later ones are ignored."""

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker: Breaker | None = breaker
        self.era = era

    def succeeded(self) -> None:
        """It ended well, as far as the replica is concerned."""
        self._settle(failed=False)

    def failed(self) -> None:
        """It ended badly, and the replica is to blame."""
        self._settle(failed=True)

    def dropped(self) -> None:
        """It ended without saying anything about the replica."""
        self._settle(failed=None)

    def _settle(self, *, failed: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.settle(self, failed=failed)
