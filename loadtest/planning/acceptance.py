"""How many tokens a cycle keeps with a tree: the acceptance length tau, as it was given or of trees nobody measured.

Refuses to own measuring tau.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from loadtest.errors import PlanError
from loadtest.tree import Tree

WIDTH_EXPONENT = 0.4
"""How the chance to hit a level grows with its width: see `tau_of`."""
CANDIDATES = ("1/1/2", "2/1/3", "3/1/4", "5/1/6", "7/1/8", "3/4/8", "4/4/16", "5/4/16", "5/8/32", "8/8/64")
"""Trees that are weighed where only acceptance by position is known."""


def tau_of(tree: Tree, by_position: Sequence[float]) -> float:
    """Tokens kept per cycle, from n-alpha of a chain (the chance that draft n+1 is accepted if n were).

    Exact for a chain. In a tree with w nodes a level on average a level is hit with alpha^(w^-0.4): an approximation,
    with its errors in docs/plan.md. Positions past the last known one are as likely as that one.
    """
    exponent: float = ((tree.num_draft_tokens - 1) / tree.num_steps) ** -WIDTH_EXPONENT
    known = [*by_position, *[by_position[-1]] * tree.num_steps][: tree.num_steps]
    levels = [alpha**exponent for alpha in known]
    kept: list[float] = list(accumulate(levels, mul))
    return 1 + sum(kept)


def read_acceptance(text: str) -> dict[Tree, float]:
    """Tau by tree: from numbers (`0.77,0.7`: n-alpha by position), or a JSON file.

    The file holds `{"3/1/4": 2.1, ...}`, or `{"by_position": [0.77, 0.7]}`, or both; what is measured overrules.

    Raises:
        PlanError: neither, or a value that cannot be.
    """
    try:
        return from_positions([float(part) for part in text.split(",")])
    except ValueError:
        return _read_file(text)


def _read_file(text: str) -> dict[Tree, float]:
    try:
        content = json.loads(Path(text).read_bytes())
    except OSError as error:
        raise PlanError(f"{text}: {error.strerror}; give a JSON file, or n-alpha by position, as 0.77,0.7") from error
    except ValueError as error:
        raise PlanError(f"{text}: not JSON") from error
    if not isinstance(content, dict) or not content:
        raise PlanError(f'{text}: no acceptance in it: write {{"3/1/4": 2.1}} or {{"by_position": [0.77, 0.7]}}')
    known = from_positions(content.pop("by_position")) if "by_position" in content else {}
    return known | _measured(content)


def from_positions(by_position: object) -> dict[Tree, float]:
    """Tau of every candidate.

    Raises:
        PlanError: not a list of shares.
    """
    if not isinstance(by_position, list) or not by_position or not all(_within(alpha, 0, 1) for alpha in by_position):
        raise PlanError(f"acceptance by position is a list of shares between 0 and 1, not {by_position!r}")
    trees = map(Tree.parse, CANDIDATES)
    return {tree: tau_of(tree, by_position) for tree in trees}


def _measured(content: Mapping[str, Any]) -> dict[Tree, float]:
    taus = {Tree.parse(name): tau for name, tau in content.items()}
    for tree, tau in taus.items():
        if not _within(tau, 1, tree.num_steps + 1):
            raise PlanError(f"tau of {tree} lies between 1 and {tree.num_steps + 1}, not at {tau!r}")
    return taus


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
