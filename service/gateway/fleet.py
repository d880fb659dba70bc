"""All pools, and which of them serves a request: policy and weights applied to what is live.

Owns the pools' lives, their queues, the throttle and the plan for a request. Refuses to own the rules (policy.py), the
choice of a replica (pool.py) and carrying a plan out (relay.py).
"""

import asyncio
import logging
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

_log = logging.getLogger("aerie.fleet")


class Station:
    """A pool and the queue before it."""

    def __init__(self, config: PoolConfig, fleet: GatewayConfig, settings: Settings, metrics: Metrics) -> None:
        self.config = config
        discovery = Discovery(config.replicas)
        self.pool = Pool(config.name, discovery, settings, metrics, max_in_flight=config.max_in_flight)
        queue = fleet.queue
        self.admission = Admission(capacity=0, queue_limit=queue.limit, tenant_queue_limit=queue.limit_per_key)
        metrics.follow_queue(config.name, lambda: self.admission.waiting)

    def open(self) -> None:
        """Let the queue know how many may run now.

        Raises:
            UpstreamUnavailable: none; waiting would only delay that answer.
        """
        capacity = self.pool.capacity
        if not capacity:
            self.pool.require()
        self.admission.resize(capacity)


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may serve a request, in this order, at least one, and why the first."""

    decision: Decision
    stations: tuple[Station, ...]


class Fleet:
    """The pools of one gateway. A context: inside it, they live."""

    def __init__(self, config: GatewayConfig, settings: Settings, metrics: Metrics) -> None:
        self.config = config
        self.stations = tuple(Station(pool, config, settings, metrics) for pool in config.pools)
        self._in_use = tuple(station for station in self.stations if station.config.weight > 0)
        self._throttle = Throttle(config.policy.batch_size)
        self._metrics = metrics
        self._lives = AsyncExitStack()
        metrics.speculation_pays.set_function(lambda: self._throttle.speculation_pays)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as lives:
            for station in self.stations:
                await lives.enter_async_context(station.pool)
            await lives.enter_async_context(running(self._tick_for_ever()))
            self._lives = lives.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lives.aclose()

    @property
    def reason(self) -> str | None:
        """Why nothing can be served; None when something can."""
        reasons = [station.pool.reason for station in self._in_use]
        return None if None in reasons else reasons[0]

    @property
    def not_ready(self) -> dict[str, str]:
        """For operators: why each replica takes no requests, and what discovery cannot find."""
        return {name: why for station in self._in_use for name, why in station.pool.reasons.items()}

    def infos(self) -> list[RuntimeInfo]:
        """What each ready pool's runtime says of itself.

        Raises:
            UpstreamUnavailable: no pool is ready.
        """
        found = [station.pool.info() for station in self._in_use if station.pool.ready]
        if not found:
            raise unavailable(self.reason or "No runtime is ready.")
        return found

    def info_of(self, model: str) -> RuntimeInfo:
        """What a runtime that serves this model says of itself.

        Raises:
            ModelNotFound: none does.
            UpstreamUnavailable: no pool is ready.
        """
        return _any_ready(self._serving(model)).pool.info()

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
        kinds = [decision.kind, *([decision.kind.other] if _may_move(decision, live) else [])]
        stations = [station for kind in kinds for station in _in_order(serving, kind, conversation)]
        able = tuple(station for station in stations if _passes(check, station))
        if not able:
            check(_any_ready(stations).pool.info())
        if able[0].config.kind is not decision.kind:
            decision = decision.only_able()
        self._metrics.decisions.labels(decision.kind, decision.reason).inc()
        return Plan(decision, able)

    def _serving(self, model: str) -> list[Station]:
        serving = [station for station in self._in_use if _serves(station.pool, model)]
        if not any(station.pool.ready for station in serving):
            served = ", ".join(sorted({name for info in self.infos() for name in info.models}))
            raise ModelNotFound(f"The model {model[:200]!r} does not exist; served: {served}.", param="model")
        return serving

    def _live(self, stations: Iterable[Station]) -> Live:
        loads = {kind: _together(station for station in stations if station.config.kind is kind) for kind in Kind}
        return Live(loads[Kind.SPECULATIVE], loads[Kind.BASELINE], self._throttle.speculation_pays)

    async def _tick_for_ever(self) -> None:
        while True:
            try:
                self._tick()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze the queues
                _log.exception("unexpected error in looking at the load")
            await asyncio.sleep(TICK_S)

    def _tick(self) -> None:
        live = self._live(self._in_use)
        if live.speculative is not None and live.baseline is not None:
            switches = self._throttle.switches
            self._throttle.update(live.speculative, live.baseline)
            self._metrics.switches.inc(self._throttle.switches - switches)
        for station in self.stations:
            station.admission.resize(station.pool.capacity)


def _may_move(decision: Decision, live: Live) -> bool:
    return decision.fallback and live.available(decision.kind.other)


def _in_order(stations: Iterable[Station], kind: Kind, conversation: bytes) -> list[Station]:
    """Those of a kind: the conversation's own first; those that take requests now before those that do not."""
    of_kind = {station.config.name: station for station in stations if station.config.kind is kind}
    weights = {name: station.config.weight for name, station in of_kind.items()}
    return sorted(
        (of_kind[name] for name in balance.preference(conversation, weights)),
        key=lambda station: not station.pool.capacity,
    )


def _any_ready(stations: Sequence[Station]) -> Station:
    """One whose word on a request counts, if any; what none of them serves is refused by its reasons."""
    return next((station for station in stations if station.pool.ready), stations[0])


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
