"""What an operator says of runtimes and traffic, in one YAML file: pools, policy, queue.

Owns the file's shape, defaults and newest valid version, and a worker's share of its limits. Refuses to own the
process's settings (settings.py), keys (keyfile.py), watching files (reload.py) and what is done with any of it
(fleet.py).

    pools:
      - {name: eagle, kind: speculative, replicas: ["dns+http://sglang-eagle:30000"], max_in_flight: 48}
      - {name: plain, kind: baseline, replicas: ["http://10.0.0.7:30000"]}
    policy: {baseline_share: 0.02}
    queue: {limit: 1024, wait_s: 30}
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from service.gateway import strict_yaml
from service.gateway.discovery import Targets
from service.gateway.metrics import Metrics
from service.gateway.policy import Kind, PolicyConfig, PoolName
from service.gateway.reload import OptionalFile
from service.gateway.settings import Settings
from service.gateway.strict_yaml import Section

MAX_IN_FLIGHT = 256
INTERVAL_S = 1.0
"""Between two looks at the file."""


TaskName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]


def _function(name: object) -> Callable[[str], str]:
    """What `package.module:function` names. Importing runs somebody else's code: whatever goes wrong is its error."""
    module, _, attribute = str(name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"cannot import {name} ({type(error).__name__}: {error})") from None
    if not callable(found):
        raise ValueError(f"{name} cannot be called")
    return cast("Callable[[str], str]", found)


Redactor = Annotated[Callable[[str], str], BeforeValidator(_function)]


class PoolConfig(Section):
    """Replicas that serve alike. Several pools of one kind split its traffic: a canary is a pool of its own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
    """For logs and metrics."""
    kind: PoolName = Kind.SPECULATIVE
    """speculative, or baseline: the same target without a draft."""
    replicas: Annotated[Targets, Field(min_length=1, strict=False)]
    """Base URLs; of a headless service `dns+http://NAME:PORT`, every address of which is a replica."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Its share among the pools of its kind; a conversation stays where it began."""
    version: Annotated[str, Field(max_length=64)] = ""
    """Of the draft, say: for metrics, where a canary is told from the others by it."""
    calibration: Annotated[Path, Field(strict=False)] | None = None
    """What `aerie-bench calibrate` has measured: what speedup is relative to. Read with this file, and on SIGHUP."""
    hardware: str | None = None
    """What the replicas run on, in the calibration's words: another is then refused."""
    max_in_flight: Annotated[int, Field(ge=1)] = MAX_IN_FLIGHT
    """Requests at one replica; more wait in the gateway's queue. At best the runtime's --max-running-requests."""


class QueueConfig(Section):
    """Of each pool."""

    limit: Annotated[int, Field(ge=0)] = 1024
    """Requests that wait; more are refused with 429."""
    limit_per_key: Annotated[int, Field(ge=0)] | None = None
    """Of one key's requests."""
    wait_s: Annotated[float, Field(ge=0)] = 30.0
    """None waits longer."""


class LosslessnessConfig(Section):
    """Greedy answers of speculative pools, checked against the baseline: docs/losslessness.md."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the greedy requests that can be compared, the share that is looked at; 0: none."""
    epsilon: Annotated[float, Field(ge=0)] = 0.25
    """Two tokens whose logprobs differ by no more are alike to the baseline: numerics decide between them."""
    per_minute: Annotated[float, Field(gt=0)] = 6.0
    """Checks are no more than this."""
    baseline_pool: str | None = None
    """Its name; by default the first baseline that serves the model. One of weight 0 serves nothing else."""


class CaptureConfig(Section):
    """Prompts kept to train the next draft on: docs/train.md, closing the loop."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the conversations that were answered, the share whose prompts are kept; 0: none."""
    folder: Annotated[Path, Field(strict=False)] | None = None
    """Where; files that only the gateway's user can read."""
    max_megabytes: Annotated[float, Field(gt=0)] = 256.0
    """Of all files there; the oldest go first."""
    max_age_days: Annotated[float, Field(gt=0)] = 30.0
    """A file goes when it is older."""
    answers: bool = False
    """Keep the answers too."""
    redact: Redactor | None = None
    """`package.module:function`, from text to text, applied to each text before it is written; an error: no prompt."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.share and self.folder is None:
            raise ValueError("folder: a share of prompts is to be kept, but not where")
        return self


class GatewayConfig(Section):
    """The whole file."""

    pools: Annotated[tuple[PoolConfig, ...], Field(min_length=1, strict=False)]
    policy: PolicyConfig = PolicyConfig()
    queue: QueueConfig = QueueConfig()
    losslessness: LosslessnessConfig = LosslessnessConfig()
    capture: CaptureConfig = CaptureConfig()
    tasks: Annotated[tuple[TaskName, ...], Field(max_length=16, strict=False)] = ()
    """Kinds of work that clients may name in the header x-aerie-task; acceptance is counted apart for each."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        repeated = [name for name, times in Counter(pool.name for pool in self.pools).items() if times > 1]
        if repeated:
            raise ValueError(f"pools: two are named {repeated[0]}")
        kinds = {pool.kind for pool in self.pools if pool.weight > 0}
        if not kinds:
            raise ValueError("pools: every weight is 0, so none would serve")
        for name in ("grammar", "logprobs"):
            if getattr(self.policy, name) is Kind.BASELINE and Kind.BASELINE not in kinds:
                raise ValueError(f"policy.{name}: baseline, but no pool is of that kind")
        return self

    @model_validator(mode="after")
    def _has_a_baseline_to_check_against(self) -> Self:
        baselines, wanted = [pool.name for pool in self.pools if pool.kind is Kind.BASELINE], self.losslessness
        if wanted.share and not baselines:
            raise ValueError("losslessness: answers are to be checked, but no pool is a baseline")
        if wanted.baseline_pool not in (None, *baselines):
            raise ValueError(f"losslessness.baseline_pool: {wanted.baseline_pool} is no baseline pool")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The pools'."""
        return frozenset(pool.name for pool in self.pools)

    def share(self, workers: int) -> Self:
        """What each of several workers may take of it: an equal part of every number of requests, rounded up."""
        pools = tuple(pool.model_copy(update=_parts(workers, max_in_flight=pool.max_in_flight)) for pool in self.pools)
        queue = _parts(workers, limit=self.queue.limit, limit_per_key=self.queue.limit_per_key)
        checks = self.losslessness.model_copy(update={"per_minute": self.losslessness.per_minute / workers})
        parts = {"pools": pools, "queue": self.queue.model_copy(update=queue), "losslessness": checks}
        return self.model_copy(update=parts)


def _parts(workers: int, **numbers: int | None) -> dict[str, int | None]:
    return {name: number and -(-number // workers) for name, number in numbers.items()}


class ConfigFile:
    """The newest valid file that the settings name; without one, a pool of their upstreams."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read it.

        Raises:
            InvalidFiles: it cannot be used.
        """
        self._workers = settings.workers
        self._on_change: Callable[[GatewayConfig], None] | None = None
        pool = PoolConfig(
            name="default",
            replicas=settings.upstream,
            calibration=settings.calibration,
            hardware=settings.hardware,
        )
        self._without = GatewayConfig(pools=(pool,))
        parse = partial(strict_yaml.parse, model=GatewayConfig)
        self._file = OptionalFile(
            settings.config, parse, metrics.config_file, on_change=self._changed, interval_s=INTERVAL_S
        )
        self.reload, self.watch = self._file.reload, self._file.watch

    @property
    def value(self) -> GatewayConfig:
        """This worker's share of it."""
        return (self._file.value or self._without).share(self._workers)

    def follow(self, on_change: Callable[[GatewayConfig], None]) -> None:
        """Tell every further version to this one."""
        self._on_change = on_change

    def _changed(self, config: GatewayConfig) -> None:
        if self._on_change is not None:
            self._on_change(config.share(self._workers))
