"""All pools, and which of them serves a request: policy and weights applied to what is live.

Owns the pools' lives, their queues, the throttle and the plan for a request. Refuses to own the rules (policy.py), the
choice of a replica (pool.py) and carrying a plan out (relay.py).
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from service.gateway import balance
from service.gateway.admission import Admission
from service.gateway.config import GatewayConfig, PoolConfig
from service.gateway.discovery import Discovery
from service.gateway.errors import GatewayError, ModelNotFound, unavailable
from service.gateway.metrics import Metrics
from service.gateway.policy import Decision, Kind, Live, PoolLoad, RequestFacts, Throttle, check_pool, decide
from service.gateway.pool import Pool
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeInfo
from service.gateway.tasks import running

TICK_S = 1.0
"""Between two looks at the load: the throttle judges it, and queues learn how many may run."""


class Station:
    """A pool and the queue before it."""

    def __init__(self, config: PoolConfig, fleet: GatewayConfig, settings: Settings, metrics: Metrics) -> None:
        self.config = config
        discovery = Discovery(config.replicas)
        self.pool = Pool(config.name, discovery, settings, metrics, max_in_flight=config.max_in_flight)
        queue = fleet.queue
        self.admission = Admission(capacity=0, queue_limit=queue.limit, tenant_queue_limit=queue.limit_per_key)
        metrics.follow_queue(config.name, lambda: self.admission.waiting)

    def resize(self) -> None:
        """Let the queue know how many may run now."""
        self.admission.resize(self.pool.capacity)


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may serve a request, in this order, and why the first."""

    decision: Decision
    stations: tuple[Station, ...]


class Fleet:
    """The pools of one gateway. A context: inside it, they live."""

    def __init__(self, config: GatewayConfig, settings: Settings, metrics: Metrics) -> None:
        self.config = config
        self.stations = tuple(Station(pool, config, settings, metrics) for pool in config.pools)
        self._throttle = Throttle(config.policy.batch_size)
        self._metrics = metrics
        self._lives = AsyncExitStack()
        metrics.speculation_pays.set_function(lambda: self._throttle.speculation_pays)

    async def __aenter__(self) -> Self:
        for station in self.stations:
            await self._lives.enter_async_context(station.pool)
        await self._lives.enter_async_context(running(self._tick_for_ever()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lives.aclose()

    @property
    def reason(self) -> str | None:
        """Why nothing can be served; None when something can."""
        reasons = [station.pool.reason for station in self.stations]
        return None if None in reasons else reasons[0]

    def infos(self) -> list[RuntimeInfo]:
        """What each ready pool's runtime says of itself.

        Raises:
            UpstreamUnavailable: no pool is ready.
        """
        found = [station.pool.info() for station in self.stations if station.pool.ready]
        if not found:
            raise unavailable(self.reason or "No runtime is ready.")
        return found

    def info_of(self, model: str) -> RuntimeInfo:
        """What a runtime that serves this model says of itself.

        Raises:
            ModelNotFound: none does.
            UpstreamUnavailable: no pool is ready.
        """
        return next(station.pool for station in self._serving(model) if station.pool.ready).info()

    def plan(self, model: str, facts: RequestFacts, conversation: bytes, check: Callable[[RuntimeInfo], None]) -> Plan:
        """Where a request goes.

        Args:
            model: what the client asked for.
            facts: what the policy reads.
            conversation: its hash; requests of one conversation go to one version.
            check: whether a runtime can serve the request; raises what the client is told if not.

        Raises:
            ModelNotFound: no ready pool serves the model.
            UpstreamUnavailable: no pool is ready.
            GatewayError: what `check` raised, or the policy refuses the request.
        """
        serving = self._serving(model)
        live = self._live(serving)
        decision = decide(facts, live, self.config.policy)
        check_pool(decision, live)
        first = self._pick(serving, decision.kind, conversation)
        check(first.pool.info())
        others = [self._pick(serving, decision.kind.other, conversation)] if self._may_move(decision, live) else []
        self._metrics.decisions.labels(decision.kind, decision.reason).inc()
        return Plan(decision, (first, *(other for other in others if _passes(check, other))))

    def _serving(self, model: str) -> list[Station]:
        infos = self.infos()
        serving = [station for station in self.stations if station.config.weight > 0 and _serves(station.pool, model)]
        if not any(model in info.models for info in infos):
            served = ", ".join(sorted({name for info in infos for name in info.models}))
            raise ModelNotFound(f"The model {model[:200]!r} does not exist; served: {served}.", param="model")
        return serving

    def _live(self, stations: Iterable[Station]) -> Live:
        loads = {kind: _together(station for station in stations if station.config.kind is kind) for kind in Kind}
        return Live(loads[Kind.SPECULATIVE], loads[Kind.BASELINE], self._throttle.speculation_pays)

    @staticmethod
    def _may_move(decision: Decision, live: Live) -> bool:
        return decision.fallback and live.available(decision.kind.other)

    @staticmethod
    def _pick(stations: Sequence[Station], kind: Kind, conversation: bytes) -> Station:
        """Among those that can take it now, if any can."""
        of_kind = {station.config.name: station for station in stations if station.config.kind is kind}
        if not of_kind:
            raise unavailable(f"No {kind} runtime is ready.")
        able = {name: station for name, station in of_kind.items() if station.pool.load.replicas} or of_kind
        return able[balance.pick_version({name: able[name].config.weight for name in able}, conversation)]

    async def _tick_for_ever(self) -> None:
        while True:
            live = self._live(self.stations)
            if live.speculative is not None and live.baseline is not None:
                self._throttle.update(live.speculative, live.baseline)
            for station in self.stations:
                station.resize()
            await asyncio.sleep(TICK_S)


def dice() -> float:
    """A request's draw for the policy."""
    return random.random()  # noqa: S311 - shares traffic, no secret


def _together(stations: Iterable[Station]) -> PoolLoad | None:
    loads = [station.pool.load for station in stations]
    if not loads:
        return None
    return PoolLoad(sum(load.replicas for load in loads), sum(load.running for load in loads))


def _serves(pool: Pool, model: str) -> bool:
    """A pool that is down may: it is not known to lack the model, and its requests deserve a 503."""
    return not pool.ready or model in pool.info().models


def _passes(check: Callable[[RuntimeInfo], None], station: Station) -> bool:
    try:
        check(station.pool.info())
    except GatewayError:
        return False
    return True
