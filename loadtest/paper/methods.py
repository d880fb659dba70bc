"""The paper's methods, and what it reports of them.

Owns reading both tables (methods.yaml, published.yaml). Refuses to own measuring (experiment.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from loadtest.errors import BenchError
from loadtest.launch import Endpoint

"""The paper's, by the names of their files."""


class MethodError(BenchError):
    """A method that cannot be measured."""


@dataclass(frozen=True)
class Methods:
    """By name: the side of a comparison, or why there is none."""

    sides: dict[str, str]
    not_measured: dict[str, str]


def methods(profile: str | None, further: Mapping[str, str], only: Sequence[str] = ()) -> Methods:
    """Those of a profile (the default one's by default), with the user's own; `only` leaves others out.

    Raises:
        MethodError: an unknown name.
        EndpointError: a side that is neither a URL nor a runtime to start.
    """
    document = _read("methods.yaml")
    tables = [document["every_profile"], document["profiles"].get(profile or "cpu", {})]
    sides: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for table in tables:
        sides |= table.get("methods", {})
        reasons |= table.get("not_measured", {})
    sides |= further
    for side in sides.values():
        Endpoint.parse(side)
    unknown = sorted(set(only) - set(sides))
    if unknown:
        raise MethodError(f"unknown method {unknown[0]}: there are {', '.join(sides)}; add it with --method NAME=SIDE")
    chosen = {name: side for name, side in sides.items() if not only or name in only}
    return Methods(chosen, {name: reason for name, reason in reasons.items() if name not in chosen})


def published() -> dict[str, Any]:
    """The paper's figures."""
    return _read("published.yaml")


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(resources.files("loadtest.paper").joinpath(name).read_text())
    return document
