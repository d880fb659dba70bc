"""Several replicas under one name: who is in, who can take a request, how many can.

Owns the members over time and the choice among them. Refuses to own where replicas are (discovery.py), what one's
requests say of it (member.py), which is preferred (balance.py), how many requests run at once (admission.py) and trying
again elsewhere (relay.py).
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Self

from service.gateway import balance
from service.gateway.baseline import Calibration
from service.gateway.breaker import Breaker, BreakerPolicy, State
from service.gateway.discovery import Discovery, changes
from service.gateway.errors import unavailable
from service.gateway.load import Load
from service.gateway.member import Lease, Member
from service.gateway.metrics import Metrics, replica_label
from service.gateway.policy import PoolLoad
from service.gateway.replica import Replica
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeInfo
from service.gateway.tasks import end

DISCOVERY_INTERVAL_S = 3.0

_REASON_CHARS = 120
_REASONS_TOLD = 3

_log = logging.getLogger("aerie.pool")


class Pool:
    """The replicas that serve one thing. A context: inside it, they are looked for and probed."""

    def __init__(
        self,
        name: str,
        discovery: Discovery,
        settings: Settings,
        metrics: Metrics,
        *,
        max_in_flight: int,
        breaker: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._discovery = discovery
        self._settings = settings
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self.calibration = Calibration(name, None, None, metrics)
        self._policy = breaker or BreakerPolicy()
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, no secret
        self._members: dict[str, Member] = {}
        self._looking: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.refresh()
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Look for replicas and probe them until `close`."""
        assert self._looking is None, "once"
        self._looking = asyncio.create_task(self._refresh_for_ever())

    async def close(self) -> None:
        """End what `start` began, and every connection; a request that comes later finds nobody."""
        if self._looking is not None:
            await end(self._looking)
        for member in self._members.values():
            member.leaving = True
        await asyncio.gather(*(member.close() for member in self._members.values()))
        self.calibration.hide()

    def adopt(self, replicas: Sequence[str], max_in_flight: int) -> None:
        """Have these replicas and this limit; replicas that stay are not disturbed, the others change soon."""
        self._max_in_flight = max_in_flight
        self._discovery.retarget(replicas)
        self._look_now.set()

    def compare(self, calibration: Calibration) -> None:
        """Count from now on what this baseline would have done."""
        self.calibration = calibration
        calibration.show()
        for member in self._members.values():
            member.replica.adopt(calibration)

    @property
    def idle(self) -> bool:
        """Whether none of our requests and questions is at a member."""
        return all(member.load.idle for member in self._members.values())

    @property
    def ready(self) -> bool:
        """Whether any member's last probe was good. Breakers do not count: without requests they never close."""
        return self.described is not None

    @property
    def described(self) -> RuntimeInfo | None:
        """A ready member's description; None where there is none."""
        for member in self._members.values():
            if member.ready:
                return member.replica.info()
        return None

    @property
    def reason(self) -> str | None:
        """Why the pool is not ready, without addresses; None when it is."""
        return None if self.ready else self._why_nobody()

    @property
    def reasons(self) -> Mapping[str, str]:
        """For operators: why each replica takes no requests and, by the pool's name, what discovery cannot find."""
        reasons = {replica_label(url): member.reason for url, member in self._members.items()}
        reasons[self.name] = "; ".join(self._discovery.problems) or None
        return {label: reason for label, reason in reasons.items() if reason is not None}

    @property
    def load(self) -> PoolLoad:
        """Members that take requests, and the requests at these, ours and others'."""
        replicas = running = 0
        for member in self._members.values():
            if member.reason is None:
                replicas, running = replicas + 1, running + member.load.busy
        return PoolLoad(replicas, running)

    @property
    def capacity(self) -> int:
        """How many of our requests may run at once: `max_in_flight` for each member, one where a breaker tries it."""
        return sum([self._room(member) for member in self._members.values() if member.reason is None])

    def info(self) -> RuntimeInfo:
        """A ready member's description.

        Raises:
            UpstreamUnavailable: there is none.
        """
        if (described := self.described) is None:
            raise unavailable(self._why_nobody())
        return described

    @property
    def last_models(self) -> frozenset[str]:
        """What its members last said they serve, whether they are up or not; nothing before any has said."""
        return frozenset(model for member in self._members.values() for model in member.replica.last_models)

    def require(self) -> None:
        """Whether any member takes requests; where none does, queueing for one would only delay the answer.

        Raises:
            UpstreamUnavailable: none does, and why.
        """
        if not self._able():
            raise unavailable(self._why_nobody())

    def choose(self, key: bytes | None, exclude: Collection[Member] = ()) -> Member:
        """Who should serve a request whose prompt has this key; `exclude` those that have failed on it.

        Members with `max_in_flight` of our requests are passed over while others have fewer; how many requests there
        are in all is admission's to bound.

        Raises:
            UpstreamUnavailable: nobody can, and why.
        """
        able = self._able()
        if exclude:
            able = {url: member for url, member in able.items() if member not in exclude}
        if not able:
            raise unavailable(self._why_nobody())
        if len(able) == 1:
            return next(iter(able.values()))
        with_room = {url: member for url, member in able.items() if member.load.ours < self._max_in_flight}
        loads = {url: member.load for url, member in (with_room or able).items()}
        return able[balance.pick(loads, key, self._rng)]

    def has_other_than(self, tried: Collection[Member]) -> bool:
        """Whether there is a replica left for a request that these could not take."""
        return any(member not in tried for member in self._able().values())

    def lease(self, member: Member, *, question: bool = False) -> Lease:
        """A context in which the request is at this member: `with pool.lease(pool.choose(key)) as lease`."""
        return Lease(member, question=question)

    async def refresh(self) -> None:
        """Look for replicas once: newcomers are probed, who is gone takes no new request and is closed when idle."""
        urls = await self._discovery.urls()
        added, removed = changes(self._members.keys(), urls)
        for url in sorted(added):
            self._members[url] = self._join(url)
        for url, member in self._members.items():
            if member.leaving != (url in removed):
                member.leaving = not member.leaving
                self._log_change("replica leaves" if member.leaving else "replica is back", url)
        for url in removed:
            if self._members[url].load.idle:
                await self._members[url].close()
                del self._members[url]

    async def _refresh_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DISCOVERY_INTERVAL_S * self._rng.uniform(0.9, 1.1)):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                await self.refresh()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze the pool
                _log.exception("unexpected error in discovery")

    def _join(self, url: str) -> Member:
        load = Load(capacity=self._max_in_flight)
        replica = Replica(url, self._settings, self._metrics, pool=self.name, load=load)
        replica.adopt(self.calibration)
        breaker = Breaker(self._policy, clock=self._clock, rng=self._rng)
        self._metrics.follow(
            self.name,
            replica_label(url),
            in_flight=lambda: load.ours,
            others=lambda: load.others,
            breaker_closed=lambda: breaker.state is State.CLOSED,
        )
        self._log_change("replica joins", url)
        return Member(url, replica, breaker)

    def _log_change(self, what: str, url: str) -> None:
        _log.info(what, extra={"fields": {"pool": self.name, "replica": replica_label(url)}})

    def _room(self, member: Member) -> int:
        return 1 if member.breaker.state is State.HALF_OPEN else self._max_in_flight

    def _able(self) -> dict[str, Member]:
        return {url: member for url, member in self._members.items() if member.reason is None}

    def _why_nobody(self) -> str:
        """Without addresses: clients read it."""
        reasons = [member.reason or "It has failed on this request." for member in self._members.values()]
        if len(set(reasons)) <= 1:
            return reasons[0] if reasons else "No replica is known."
        counted = Counter(reason[:_REASON_CHARS] for reason in reasons).most_common(_REASONS_TOLD)
        told = " ".join(f"{count} x: {reason}" for reason, count in counted)
        return f"None of {len(reasons)} replicas takes requests. {told}"
