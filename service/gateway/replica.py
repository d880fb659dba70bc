"""One runtime as the gateway sees it over time: its client, its last description, whether it takes requests, its load.

Owns the probe loop. Refuses to own choosing between runtimes: a pool holds several of these.
"""

import asyncio
import logging
import random

from service.capabilities import TESTED_VERSION
from service.gateway.baseline import Calibration
from service.gateway.batches import BatchMeter
from service.gateway.errors import GatewayError, UpstreamTimeout, unavailable
from service.gateway.load import Load
from service.gateway.metrics import Metrics, replica_label
from service.gateway.settings import Settings
from service.gateway.sglang import RuntimeInfo, SGLang

TIMEOUTS_BEFORE_DOWN = 3
"""A runtime busy with a long prefill answers late; refused connections and 503 count at once."""

_log = logging.getLogger("aerie.replica")


class Replica:
    """A runtime, ready or not and why."""

    def __init__(self, url: str, settings: Settings, metrics: Metrics, *, pool: str, load: Load) -> None:
        self.client = SGLang(url, settings)
        self.load = load
        self.meter = BatchMeter(metrics, pool, replica_label(url), load)
        self.calibration: Calibration | None = None
        self._labels = {"pool": pool, "replica": replica_label(url)}
        self._interval_s = settings.probe_interval_s
        self._jitter = random.Random()  # noqa: S311 - spreads the probes of several gateways, no secret
        self._metrics = metrics
        metrics.upstream_up.labels(**self._labels).set(0)
        self._info: RuntimeInfo | None = None
        self.reason: str | None = "The runtime has not been probed yet."
        """Why it takes no requests; None when it does."""
        self._timeouts = 0

    @property
    def last_models(self) -> tuple[str, ...]:
        """What it last said it serves; nothing before it has."""
        return self._info.models if self._info else ()

    def info(self) -> RuntimeInfo:
        """The runtime's description.

        Raises:
            UpstreamUnavailable: it takes no requests now.
        """
        if self.reason is not None or self._info is None:
            raise unavailable(self.reason or "The runtime has not described itself yet.")
        return self._info

    async def watch(self) -> None:
        """Probe for ever."""
        while True:
            try:
                await self.probe()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze readiness
                _log.exception("unexpected error in a probe")
                self._down("The last probe failed unexpectedly.")
            await asyncio.sleep(self._interval_s * self._jitter.uniform(0.9, 1.1))

    async def probe(self) -> None:
        """One probe; a runtime that comes back says how busy it is and is described anew before it is trusted."""
        try:
            await self.client.ready()
            await self._ask_load()
            if self.reason is not None or self._info is None:
                self._describe(await self.client.describe())
        except UpstreamTimeout as error:
            self._timeouts += 1
            if self._timeouts >= TIMEOUTS_BEFORE_DOWN or self._info is None:
                self._down(error.message)
        except GatewayError as error:
            self._down(error.message)
        else:
            self._timeouts = 0

    def adopt(self, calibration: Calibration) -> None:
        """Be compared with this baseline, if it fits; judged anew whenever the runtime is described."""
        self.calibration = calibration
        self.meter.settle()
        self.meter.baseline = calibration.judge(self._labels["replica"], self._info) if self._info else None

    async def close(self) -> None:
        """Close every connection and drop its time series."""
        if self.calibration is not None:
            self.calibration.forget(self._labels["replica"])
        self.meter.close()
        self._metrics.forget(**self._labels)
        self.client.close()

    async def _ask_load(self) -> None:
        said = await self.client.loads()
        self.meter.settle()
        if said is None:
            self.load.unreported()
        else:
            self.load.report(said.running + said.waiting, said.max_running)

    def _describe(self, info: RuntimeInfo) -> None:
        self._info, self.reason = info, None
        if self.calibration is not None:
            self.adopt(self.calibration)
        facts = info.facts
        self._metrics.upstream_up.labels(**self._labels).set(1)
        self._metrics.upstream_info.remove_by_labels(self._labels)
        described = (facts.version, facts.device, facts.algorithm, info.tree, info.models[0])
        self._metrics.upstream_info.labels(*self._labels.values(), *described).set(1)
        fields = {"version": facts.version, "algorithm": facts.algorithm, "tree": info.tree, "models": info.models}
        _log.info("runtime ready", extra={"fields": self._labels | fields})
        if facts.version != TESTED_VERSION:
            _log.warning("the capability table was made for SGLang %s, this is %s", TESTED_VERSION, facts.version)

    def _down(self, reason: str) -> None:
        if self.reason is None:
            _log.warning("runtime down", extra={"fields": {**self._labels, "reason": reason}})
        self.reason = reason
        self._metrics.upstream_up.labels(**self._labels).set(0)
