"""What Prometheus knows of the two pools: since when they are as they are, and which time is judged.

Owns the look at the pools and the times. Refuses to own the counts in those times (evidence.py).

Nothing is remembered between two calls: a step of a roll-out begins when the pools' weights or versions last changed,
which Prometheus knows, and has a look after every `look_s` of it. Calls between two looks see what the last one saw, so
asking often costs no confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.rollout.errors import RolloutError
from service.rollout.prometheus import Prometheus, Series

DAY_S = 86_400
SAMPLE_S = 60
"""Between two looks at the weights of the last day."""
SETTLE_S = 300
"""After a change: caches are cold, and requests end that began before."""
BLOCK_S = 300
"""A block is no shorter: estimate.py."""
MAX_BLOCKS = 24
"""Longer times have longer blocks, the better to hold whatever takes long to pass."""


STATES = (
    'count_values by (pool, version) ("weight", aerie_pool_weight{%(of)s} '
    "* on (namespace, job, instance, pool) group_left (version) "
    "topk by (namespace, job, instance, pool) (1, aerie_pool_info{%(of)s}))"
)
"""A series for each weight and version that a gateway gives a pool: one version, also while its workers change."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two pools, by name."""

    canary: str
    stable: str
    namespace: str | None = None

    @property
    def matchers(self) -> str:
        """For a selector's braces. Pools' names hold no character that means something to a regular expression."""
        return self.of(self.canary, self.stable)

    def of(self, *pools: str) -> str:
        """As `matchers`, for some pools."""
        namespace = [] if self.namespace is None else [f'namespace="{self.namespace}"']
        return ",".join([f'pool=~"{"|".join(pools)}"', *namespace])


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks that follow one another, up to the newest look; `look` counts from 1."""

    start_s: float
    end_s: float
    blocks: int
    look: int

    @property
    def block_s(self) -> float:
        """One block's length."""
        return (self.end_s - self.start_s) / self.blocks


@dataclass(frozen=True, slots=True)
class Situation:
    """`share` of the two pools' requests is the canary's. Without a window there is nothing to judge on, and
    `missing` says why."""

    pair: Pair
    versions: Mapping[str, str]
    share: float
    window: Window | None
    missing: Sequence[str]
    notes: Sequence[str]
    live: Mapping[str, int] = field(default_factory=dict)
    """Replicas that answer, by pool."""


def situate(prometheus: Prometheus, pair: Pair, look_s: int) -> Situation:
    """Look at the pools.

    Raises:
        RolloutError: no such pools, pools that cannot be compared, or no Prometheus.
    """
    now_s = prometheus.now_s()
    _check(prometheus.at(f"last_over_time(aerie_pool_info{_in(pair)}[1d])", now_s), pair)
    until_s = now_s // SAMPLE_S * SAMPLE_S  # the same times at every call: a change is found where it was found before
    history = prometheus.between(STATES % {"of": pair.matchers}, until_s - DAY_S, until_s, SAMPLE_S)
    states = _states(history)
    if not states:
        return Situation(pair, {}, 0, None, ["Prometheus has no weights of the pools for the last day"], [])
    changed_s, seen_s, state = _since(states)
    versions = {pool: version for pool, version, _ in state}
    weights = {pool: float(weight) for pool, _, weight in state}
    live = _live(prometheus, pair, now_s)
    down = [f"no replica of {name} answers" for name, replicas in live.items() if not replicas]
    missing = _unsound(pair, state, now_s - seen_s) or down
    total = sum(weights.values())
    share = weights.get(pair.canary, 0.0) / total if total else 0.0
    runtimes = prometheus.at(f"last_over_time(aerie_upstream_info{{{pair.matchers}}}[30m])", now_s)
    window, too_soon = _window(changed_s + SETTLE_S, now_s, look_s)
    return Situation(pair, versions, share, window, [*missing, *too_soon], _differences(runtimes, pair), live)


State = frozenset[tuple[str, str, str]]
"""Pools with their versions and weights, as gateways tell them; more than one of a pool while a change goes round."""


def _in(pair: Pair) -> str:
    return "" if pair.namespace is None else f'{{namespace="{pair.namespace}"}}'


def _check(pools: Sequence[Series], pair: Pair) -> None:
    """Both are there, speculate, and are in one namespace."""
    where = "" if pair.namespace is None else f" in namespace {pair.namespace}"
    if not pools:
        raise RolloutError(
            f"Prometheus has no pools{where} of the last day: does it scrape the gateways (aerie_pool_info)?"
        )
    kinds = {one.labels["pool"]: one.labels["kind"] for one in pools}
    for name in (pair.canary, pair.stable):
        if name not in kinds:
            raise RolloutError(f"Prometheus has no pool {name}{where}; it has {', '.join(sorted(kinds))}")
        if kinds[name] != "speculative":
            raise RolloutError(f"pool {name} is a {kinds[name]} pool; a roll-out is of drafts, of speculative pools")
    ours = (one for one in pools if one.labels["pool"] in (pair.canary, pair.stable))
    namespaces = sorted({one.labels.get("namespace", "") for one in ours})
    if len(namespaces) > 1:
        raise RolloutError(f"the pools are in namespaces {', '.join(namespaces)}; choose with --namespace")


def _states(history: Sequence[Series]) -> list[tuple[float, State]]:
    """What was told at each time at which anything was."""
    told: dict[float, set[tuple[str, str, str]]] = {}
    for one in history:
        state = one.labels["pool"], one.labels.get("version", ""), one.labels["weight"]
        for time_s in one.values:
            told.setdefault(time_s, set()).add(state)
    return [(time_s, frozenset(told[time_s])) for time_s in sorted(told)]


def _since(states: Sequence[tuple[float, State]]) -> tuple[float, float, State]:
    """When the last state began, when it was last seen, and what it is."""
    seen_s, last = states[-1]
    changed_s = seen_s
    for time_s, state in reversed(states):
        if state != last:
            break
        changed_s = time_s
    return changed_s, seen_s, last


def _unsound(pair: Pair, state: State, age_s: float) -> list[str]:
    """Why what the gateways tell is no state to judge in."""
    told = [pool for pool, _, _ in state]
    gone = [name for name in (pair.canary, pair.stable) if name not in told]
    if gone:
        return [f"the gateways no longer have pool {name}" for name in gone]
    if len(told) > len(set(told)):
        return ["gateways differ in the pools' weights or versions: a change is going round"]
    if age_s > SETTLE_S:
        return [f"series are stale: nothing of the gateways for {age_s / 60:.0f} minutes"]
    return []


def _live(prometheus: Prometheus, pair: Pair, now_s: float) -> dict[str, int]:
    """How many replicas of each pool answer, to any gateway."""
    found = prometheus.at(_UP % pair.matchers, now_s)
    up = {one.labels["pool"]: int(value) for one in found for value in one.values.values()}
    return {name: up.get(name, 0) for name in (pair.canary, pair.stable)}


_UP = "sum by (pool) (max by (pool, replica) (aerie_upstream_up{%s}))"


def _window(start_s: float, now_s: float, look_s: int) -> tuple[Window | None, list[str]]:
    look = int((now_s - start_s) // look_s)
    if look < 1:
        due = datetime.fromtimestamp(start_s + look_s, UTC)
        return None, [f"the first look at these weights is at {due:%H:%M} UTC"]
    length_s = look * look_s
    return Window(start_s, start_s + length_s, min(MAX_BLOCKS, length_s // BLOCK_S), look), []


def _differences(runtimes: Sequence[Series], pair: Pair) -> list[str]:
    """In what the pools differ beside the draft, for a person to know.

    Raises:
        RolloutError: they serve different models.
    """
    notes = []
    for label, called in (("model", "model"), ("version", "SGLang"), ("device", "device"), ("tree", "tree")):
        told: dict[str, set[str]] = {pair.canary: set(), pair.stable: set()}
        for one in runtimes:
            told[one.labels["pool"]].add(one.labels.get(label, ""))
        canary, stable = (", ".join(sorted(values)) for values in told.values())
        if not (canary and stable) or told[pair.canary] == told[pair.stable]:
            continue
        if label == "model" and told[pair.canary].isdisjoint(told[pair.stable]):
            raise RolloutError(
                f"{pair.canary} serves {canary} and {pair.stable} {stable}: different models cannot be compared"
            )
        notes.append(f"the pools differ in {called} too: {canary} and {stable}")
    return notes
