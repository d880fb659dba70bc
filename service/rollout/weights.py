"""The pools' weights in Helm values: read as Helm reads them, written as a file of weights and nothing else.

Owns these files. Refuses to own what else is in values (the chart's schema checks it) and `helm upgrade`, which is for
whoever calls.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from service.rollout.errors import RolloutError
from service.rollout.situation import Pair

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the two pools."""

    canary: float
    stable: float

    @property
    def share(self) -> float:
        """The canary's, of the two pools' requests."""
        return self.canary / (self.canary + self.stable)

    def with_share(self, share: float) -> Self:
        """As many in sum, so that a third pool's share stays what it is."""
        both = self.canary + self.stable
        canary = round(both * share, _DIGITS)
        return type(self)(canary, round(both - canary, _DIGITS))


def read(paths: Sequence[Path], pair: Pair) -> Weights:
    """From files of values, a later one over an earlier one, as `helm -f` has it.

    Raises:
        RolloutError: a file is no YAML of values, or has no such speculative pools with a weight.
    """
    pools: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, pool in _pools(path).items():
            if pool is None:
                pools.pop(name, None)
            else:
                pools[name] = {**pools.get(name, {}), **pool}
    weights = Weights(_weight(pools, pair.canary), _weight(pools, pair.stable))
    if not weights.canary + weights.stable:
        raise RolloutError(f"--values: {pair.canary} and {pair.stable} both have weight 0; none of them serves")
    return weights


def write(path: Path, pair: Pair, weights: Weights, why: str) -> None:
    """These weights, whole or not at all; those of other pools in the file stay.

    Raises:
        RolloutError: the file holds more than weights, or cannot be written.
    """
    pools = check_output(path)
    pools |= {pair.stable: {"weight": weights.stable}, pair.canary: {"weight": weights.canary}}
    text = f"# aerie rollout step: {' '.join(why.split())}\n{yaml.safe_dump({'pools': pools}, sort_keys=False)}"
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as fresh:
            fresh.write(text)
        Path(fresh.name).chmod(0o644)
        Path(fresh.name).replace(path)
    except OSError as error:
        raise RolloutError(f"--output: {path} cannot be written: {error.strerror}") from None


def check_output(path: Path) -> dict[str, Any]:
    """What a file of weights holds by now; nothing if there is none.

    Raises:
        RolloutError: it holds more than weights, which writing would lose.
    """
    if not path.exists():
        return {}
    document = _document(path, "--output")
    pools = document.get("pools")
    only_weights = isinstance(pools, dict) and all(
        isinstance(one, dict) and set(one) == {"weight"} for one in pools.values()
    )
    if set(document) - {"pools"} or not (only_weights or not document):
        raise RolloutError(f"--output: {path} holds more than pools' weights, which would be lost; give another file")
    return dict(pools or {})


def _pools(path: Path) -> dict[str, dict[str, Any] | None]:
    pools = _document(path, "--values").get("pools") or {}
    if not isinstance(pools, dict) or not all(one is None or isinstance(one, dict) for one in pools.values()):
        raise RolloutError(f"--values: {path}: pools must be a mapping from names to pools, as the chart has it")
    return pools


def _document(path: Path, option: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RolloutError(f"{option}: {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RolloutError(f"{option}: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if document is not None and not isinstance(document, dict):
        raise RolloutError(f"{option}: {path} must be a mapping")
    return document or {}


def _weight(pools: dict[str, dict[str, Any]], name: str) -> float:
    """As the chart has it: 1 unless something else is said."""
    pool = pools.get(name)
    if pool is None:
        known = ", ".join(sorted(pools)) or "none"
        raise RolloutError(f"--values: there is no pool {name}; there are: {known}")
    if pool.get("kind", "speculative") != "speculative":
        raise RolloutError(
            f"--values: pool {name} is a {pool['kind']} pool; a roll-out is of drafts, of speculative pools"
        )
    weight = 1 if (given := pool.get("weight")) is None else given
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise RolloutError(f"--values: pools.{name}.weight: {weight!r} is no number from 0")
    return float(weight)
