"""A tuning as configuration: a profile for `aerie runtime`, values for the Helm chart, SGLang's adaptive tiers.

Owns these forms. Refuses to own the choice (verdict.py). The profile is the one that was tuned with, its speculation
replaced: `aerie check` tells what that holds.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from loadtest.errors import EndpointError
from loadtest.launch import profile_options, program
from loadtest.tree import Tree
from loadtest.tuning.result import Tuning

PROFILE, VALUES, TIERS = "profile.yaml", "values.yaml", "adaptive.json"
OF_A_START = ("host", "port")
"""Settings that belong to one start, not to a profile."""


def settings(profile: str | None) -> dict[str, Any]:
    """A profile as `aerie runtime` reads it, defaults included.

    Raises:
        EndpointError: it cannot be used here; the sentence is `aerie check`'s.
    """
    command = [program(), "check", *profile_options(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EndpointError(done.stderr.strip() or f"`aerie check` ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)["settings"]
    return found


def profile_yaml(tuning: Tuning, found: dict[str, Any]) -> str:
    """For `aerie runtime --profile FILE`."""
    kept = {key: value for key, value in found.items() if value not in (None, []) and key not in OF_A_START}
    before = found["speculation"]
    speculation = _speculation(tuning.chosen, before["algorithm"])
    if tuning.chosen:
        speculation["draft"] = _relative(before["draft"])
    return _yaml(tuning, kept | {"speculation": speculation})


def values_yaml(tuning: Tuning, pool: str, algorithm: str) -> str:
    """To lay over the values of the chart: `helm upgrade ... --values values.yaml --values FILE`."""
    if tuning.chosen is None:
        return _yaml(tuning, {"pools": {pool: {"kind": "baseline", "draft": None, "speculation": None}}})
    values: dict[str, Any] = {
        "pools": {pool: {"kind": "speculative", "speculation": _speculation(tuning.chosen, algorithm)}}
    }
    if tuning.policy:
        values["gateway"] = {"policy": {"batch_size": tuning.policy.model_dump()}}
    return _yaml(tuning, values)


def tiers_json(tuning: Tuning) -> str:
    """For `--speculative-adaptive-config`: the best chain from each batch size on; 0 turns drafting off.

    SGLang changes only a chain's length while it runs, and chooses among a tier's candidates: here there is one.
    """
    tiers = {
        str(band.batch_size): {
            "candidate_steps": [Tree.parse(band.best_chain).num_steps if band.best_chain_speedup > 1 else 0]
        }
        for band in tuning.bands
    }
    return json.dumps(tiers, indent=1) + "\n"


def _speculation(chosen: str | None, algorithm: str) -> dict[str, Any]:
    if chosen is None:
        return {"algorithm": "NONE"}
    tree = Tree.parse(chosen)
    return {
        "algorithm": algorithm,
        "num_steps": tree.num_steps,
        "eagle_topk": tree.eagle_topk,
        "num_draft_tokens": tree.num_draft_tokens,
    }


def _yaml(tuning: Tuning, content: dict[str, Any]) -> str:
    head = (
        f"# `aerie-bench tune`, {tuning.created:%Y-%m-%d}, {tuning.hardware}: {tuning.chosen or 'no speculation'};\n"
        f"# speedup {tuning.speedup.text()}, acceptance of {tuning.source.name}\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _relative(path: str) -> str:
    """What lies under the working directory, as seen from there."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
