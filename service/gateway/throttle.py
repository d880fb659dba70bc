"""Whether speculation pays at the load of now, model by model.

Owns the thresholds' hysteresis and the two series that tell of it. Refuses to own the load (pool.py) and what follows
from the answer (policy.py).
"""

import time
from collections.abc import Callable, Mapping

from service.gateway.metrics import Metrics
from service.gateway.policy import BatchSizeLimits, Live, PoolLoad


class Throttle:
    """Turns a batch size that moves all the time into "does speculation pay" that seldom does.

    Two thresholds and a dwell time: a dynamic limit without hysteresis collapsed throughput (vllm-project/vllm#49548).
    """

    def __init__(self, limits: BatchSizeLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.speculation_pays = True
        self.switches = 0
        self._clock = clock
        self._switched_s = float("-inf")

    def update(self, speculative: PoolLoad, baseline: PoolLoad) -> bool:
        """Take the loads of now; whether speculation pays.

        Judges the batch size if the speculative pool served everything: its own falls as soon as requests are sent
        elsewhere, which would call them back. While that pool is down there is nothing to judge.
        """
        if speculative.replicas:
            self._judge((speculative.running + baseline.running) / speculative.replicas)
        return self.speculation_pays

    def _judge(self, batch_size: float) -> None:
        limits, now_s = self.limits, self._clock()
        crossed = batch_size > limits.off_above if self.speculation_pays else batch_size < limits.on_below
        if crossed and now_s - self._switched_s >= limits.dwell_s:
            self.speculation_pays = not self.speculation_pays
            self._switched_s = now_s
            self.switches += 1


class Throttles:
    """One for each model that pools of both kinds serve."""

    def __init__(self, limits: BatchSizeLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._of: dict[str, Throttle] = {}

    def adopt(self, limits: BatchSizeLimits) -> None:
        """Judge by these from now on."""
        self._limits = limits
        for throttle in self._of.values():
            throttle.limits = limits

    def pays(self, model: str) -> bool:
        """Whether speculation does; where nothing is known, it does."""
        throttle = self._of.get(model)
        return throttle is None or throttle.speculation_pays

    def update(self, lives: Mapping[str, Live]) -> None:
        """Take the loads of now, of every model that is served."""
        both = {model: (live.speculative, live.baseline) for model, live in lives.items()}
        loads = {model: (one, other) for model, (one, other) in both.items() if one is not None and other is not None}
        for model in self._of.keys() - loads.keys():
            del self._of[model]
            self._metrics.speculation_pays.remove_by_labels({"model": model})
        for model, (speculative, baseline) in loads.items():
            self._update(model, speculative, baseline)

    def _update(self, model: str, speculative: PoolLoad, baseline: PoolLoad) -> None:
        throttle = self._of.setdefault(model, Throttle(self._limits))
        switches = throttle.switches
        self._metrics.speculation_pays.labels(model).set(throttle.update(speculative, baseline))
        self._metrics.switches.labels(model).inc(throttle.switches - switches)
