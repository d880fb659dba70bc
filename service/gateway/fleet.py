"""All pools, and which of them serves a request: policy and weights applied to what is live.

Owns the pools' lives, their queues, the throttle and the plan for a request. Refuses to own the rules (policy.py), the
choice of a replica (pool.py) and carrying a plan out (relay.py).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple, Self

from service.gateway import balance
from service.gateway.admission import Admission
from service.gateway.baseline import Calibration
from service.gateway.config import GatewayConfig, PoolConfig, QueueConfig
from service.gateway.discovery import Discovery
from service.gateway.errors import GatewayError, ModelNotFound, unavailable
from service.gateway.metrics import Metrics
from service.gateway.policy import Decision, Kind, Live, PoolLoad, RequestFacts, check_pool, decide
from service.gateway.pool import Pool
from service.gateway.reload import InvalidFiles
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeInfo
from service.gateway.tasks import running
from service.gateway.throttle import Throttles

TICK_S = 1.0
"""Between two looks at the load: the throttle judges it, and queues learn how many may run."""

_log = logging.getLogger("aerie.fleet")


class Station:
    """A pool and the queue before it."""

    def __init__(
        self, config: PoolConfig, queue: QueueConfig, settings: Settings, metrics: Metrics, calibration: Calibration
    ) -> None:
        self.config = config
        self.idle_ticks = 0
        self._metrics = metrics
        limit, discovery = config.max_in_flight, Discovery(config.replicas)
        self.pool = Pool(config.name, discovery, settings, metrics, max_in_flight=limit)
        self.pool.compare(calibration)
        self.admission = Admission(capacity=0, queue_limit=queue.limit, tenant_queue_limit=queue.limit_per_key)
        metrics.follow_queue(config.name, lambda: self.admission.waiting)
        metrics.describe_pool(config.name, config.kind, config.version, config.weight)

    def adopt(self, config: PoolConfig, queue: QueueConfig, calibration: Calibration) -> None:
        """Be this from now on; replicas that stay keep their connections, breakers and requests, the queue its own."""
        self.config, self.idle_ticks = config, 0
        self._metrics.describe_pool(config.name, config.kind, config.version, config.weight)
        self.pool.adopt(config.replicas, config.max_in_flight)
        self.pool.compare(calibration)
        self.admission.limit(queue.limit, queue.limit_per_key)

    @property
    def idle(self) -> bool:
        """Whether nobody waits or runs here."""
        return not self.admission.waiting and not self.admission.running and self.pool.idle

    def open(self) -> None:
        """Let the queue know how many may run now.

        Raises:
            UpstreamUnavailable: none; waiting would only delay that answer.
        """
        capacity = self.pool.capacity
        if not capacity:
            self.pool.require()
        self.admission.resize(capacity)


class Plan(NamedTuple):
    """Who may serve a request, in this order, at least one, and why the first."""

    decision: Decision
    stations: tuple[Station, ...]


class Fleet:
    """The pools of one gateway. A context: inside it, they live."""

    def __init__(self, config: GatewayConfig, settings: Settings, metrics: Metrics) -> None:
        self.config = config
        self._settings = settings
        self._metrics = metrics
        self._throttles = Throttles(config.policy.batch_size, metrics)
        self._retired: dict[str, Station] = {}
        self._lives = AsyncExitStack()
        curves = _calibrations(config, metrics)
        self._have(Station(pool, config.queue, settings, metrics, curves[pool.name]) for pool in config.pools)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as lives:
            lives.push_async_callback(self._close_all)
            for station in self.stations:
                await station.pool.__aenter__()
            await lives.enter_async_context(running(self._tick_for_ever()))
            self._lives = lives.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lives.aclose()

    async def settle(self, patience_s: float) -> None:
        """Wait until something can be served, but no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self.reason is not None:  # noqa: ASYNC110 - only once, at the start
                    await asyncio.sleep(0.02)

    async def _close_all(self) -> None:
        await asyncio.gather(*(station.pool.close() for station in (*self.stations, *self._retired.values())))

    def adopt(self, config: GatewayConfig) -> None:
        """Serve by this from now on; only inside the context. Pools are the same if they have the same name.

        A pool that is gone gets no new request; it serves those that it has, the waiting ones too, and is closed then.

        Raises:
            InvalidFiles: a pool would become one of the other kind, while there are plans that rely on its kind; or a
                calibration cannot be used.
        """
        before = {station.config.name: station for station in self.stations}
        known = self._retired | before
        _check_kinds(known, config)
        curves = _calibrations(config, self._metrics)
        self._retired = {name: station for name, station in known.items() if name not in config.names}
        self._have([self._adopted(known.get(pool.name), pool, config, curves[pool.name]) for pool in config.pools])
        self._throttles.adopt(config.policy.batch_size)
        self.config = config

    def calibrate(self) -> None:
        """Read every pool's calibration again.

        Raises:
            InvalidFiles: one of them cannot be used; all stay what they were.
        """
        curves = _calibrations(self.config, self._metrics)
        for station in self.stations:
            station.pool.compare(curves[station.config.name])

    def _adopted(
        self, station: Station | None, pool: PoolConfig, config: GatewayConfig, calibration: Calibration
    ) -> Station:
        if station is None:
            station = Station(pool, config.queue, self._settings, self._metrics, calibration)
            station.pool.start()
        else:
            station.adopt(pool, config.queue, calibration)
        return station

    def _have(self, stations: Iterable[Station]) -> None:
        self.stations = tuple(stations)
        self._in_use = tuple(station for station in self.stations if station.config.weight > 0)

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
        live = self._live(model, serving)
        decision = decide(facts, live, self.config.policy)
        check_pool(decision, live)
        kinds = [decision.kind, *([decision.kind.other] if _may_move(decision, live) else [])]
        able = _able([station for kind in kinds for station in _in_order(serving, kind, conversation)], check)
        if able[0].config.kind is not decision.kind:
            decision = decision.only_able()
        self._metrics.decision(decision.kind, decision.reason).inc()
        return Plan(decision, able)

    def pools_for(self, model: str, check: Callable[[RuntimeInfo], None]) -> list[Pool]:
        """Who can answer a question about this model, whatever the policy says; at least one.

        Raises:
            GatewayError: as for `plan`.
        """
        return [station.pool for station in _able(self._serving(model), check)]

    def _serving(self, model: str) -> list[Station]:
        serving = self._that_serve(model)
        if not serving:
            served = ", ".join(sorted({name for info in self.infos() for name in info.models}))
            raise ModelNotFound(f"The model {model[:200]!r} does not exist; served: {served}.", param="model")
        return serving

    def _that_serve(self, model: str) -> list[Station]:
        return [station for station in self._in_use if _serves(station.pool, model)]

    def _live(self, model: str, stations: Sequence[Station]) -> Live:
        loads: dict[Kind, PoolLoad] = {}
        for station in stations:
            kind, load = station.config.kind, station.pool.load
            loads[kind] = load if kind not in loads else loads[kind].with_other(load)
        return Live(loads.get(Kind.SPECULATIVE), loads.get(Kind.BASELINE), self._throttles.pays(model))

    async def _tick_for_ever(self) -> None:
        while True:
            try:
                self._tick()
                await self._close_idle()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze the queues
                _log.exception("unexpected error in looking at the load")
            await asyncio.sleep(TICK_S)

    def _tick(self) -> None:
        models = {model for station in self._in_use for model in station.pool.last_models}
        self._throttles.update({model: self._live(model, self._that_serve(model)) for model in models})
        for station in (*self.stations, *self._retired.values()):
            station.admission.resize(station.pool.capacity)

    async def _close_idle(self) -> None:
        """Close retired pools that nobody needs: at the second look, since a plan may be on its way to its pool.

        One that comes later yet, since it waited for another pool first, finds nobody there: a 503.
        """
        for name, station in tuple(self._retired.items()):
            station.idle_ticks = station.idle_ticks + 1 if station.idle else 0
            if station.idle_ticks > 1:
                del self._retired[name]
                self._metrics.forget_pool(name)
                await station.pool.close()
                _log.info("pool is gone", extra={"fields": {"pool": name}})


def _calibrations(config: GatewayConfig, metrics: Metrics) -> dict[str, Calibration]:
    """Each pool's, all of them read before any is used."""
    return {pool.name: Calibration(pool.name, pool.calibration, pool.hardware, metrics) for pool in config.pools}


def _check_kinds(known: Mapping[str, Station], config: GatewayConfig) -> None:
    for pool in config.pools:
        if pool.name in known and known[pool.name].config.kind is not pool.kind:
            message = f"pools: {pool.name} is {known[pool.name].config.kind} and cannot become {pool.kind} "
            raise InvalidFiles(message + "while the gateway runs; give that one another name")


def _may_move(decision: Decision, live: Live) -> bool:
    return decision.fallback and live.available(decision.kind.other)


def _in_order(stations: Iterable[Station], kind: Kind, conversation: bytes) -> list[Station]:
    """Those of a kind: the conversation's own first; those that take requests now before those that do not."""
    of_kind = [station for station in stations if station.config.kind is kind]
    if len(of_kind) < 2:
        return of_kind
    named = {station.config.name: station for station in of_kind}
    weights = {name: station.config.weight for name, station in named.items()}
    return sorted(
        (named[name] for name in balance.preference(conversation, weights)),
        key=lambda station: not station.pool.capacity,
    )


def _any_ready(stations: Sequence[Station]) -> Station:
    """One whose word on a request counts, if any; what none of them serves is refused by its reasons."""
    return next((station for station in stations if station.pool.ready), stations[0])


def _serves(pool: Pool, model: str) -> bool:
    """A pool that is down may, unless it said that it does not: what may come back deserves a 503, not a 404."""
    if (described := pool.described) is not None:
        return model in described.models
    return not pool.last_models or model in pool.last_models


def _able(stations: Sequence[Station], check: Callable[[RuntimeInfo], None]) -> tuple[Station, ...]:
    """Those that can serve it, at least one; else the reason that one of them gives is raised."""
    able = [station for station in stations if _passes(check, station)]
    if not able:
        check(_any_ready(stations).pool.info())
    return tuple(able)


def _passes(check: Callable[[RuntimeInfo], None], station: Station) -> bool:
    try:
        check(station.pool.info())
    except GatewayError:
        return False
    return True
