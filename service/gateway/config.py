"""What an operator says of runtimes and traffic, in one YAML file: pools, policy, queue.

Owns the file's shape and defaults; it is read once, at the start. Refuses to own the process's settings (settings.py),
keys (keyfile.py) and what is done with any of it (fleet.py).

    pools:
      - {name: eagle, kind: speculative, replicas: ["dns+http://sglang-eagle:30000"], max_in_flight: 48}
      - {name: plain, kind: baseline, replicas: ["http://10.0.0.7:30000"]}
    policy: {baseline_share: 0.02}
    queue: {limit: 1024, wait_s: 30}
"""

from collections import Counter
from functools import partial
from typing import Annotated, Self

from pydantic import Field, model_validator

from service.gateway import strict_yaml
from service.gateway.discovery import Targets
from service.gateway.policy import Kind, PolicyConfig, PoolName
from service.gateway.reload import Reloading, of_one
from service.gateway.settings import Settings
from service.gateway.strict_yaml import Section

MAX_IN_FLIGHT = 256


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


class GatewayConfig(Section):
    """The whole file."""

    pools: Annotated[tuple[PoolConfig, ...], Field(min_length=1, strict=False)]
    policy: PolicyConfig = PolicyConfig()
    queue: QueueConfig = QueueConfig()

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


def read_config(settings: Settings) -> GatewayConfig:
    """The file that the settings name, or one pool of their upstreams.

    Raises:
        InvalidFiles: it cannot be used.
    """
    if settings.config is None:
        return GatewayConfig(pools=(PoolConfig(name="default", replicas=settings.upstream),))
    return Reloading([settings.config], of_one(partial(strict_yaml.parse, model=GatewayConfig))).value
