"""Profiles: settings for a kind of machine, as YAML, and the overrides a user lays over them.

Owns how a profile is found and merged. The rules a profile must meet are `RuntimeConfig`'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from service.runtime.config import RuntimeConfig
from service.speculation import FOLLOWING, TREE_NUMBERS

FOLDER = Path(__file__).parent / "profiles"
ROOT = Path(__file__).resolve().parents[2]


class ProfileError(Exception):
    """A profile cannot be used; the message says which field and what would pass."""


def names() -> list[str]:
    """The shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(profile: str, overrides: Mapping[str, Any]) -> RuntimeConfig:
    """Read a shipped profile, or a YAML file by path, and lay overrides over it.

    Args:
        profile: a name of `names()` or the path of a YAML file.
        overrides: RuntimeConfig fields; None means "as the profile says". `speculation` is merged field by field,
            unless it names another algorithm: then it stands alone. A tree given here is used as it is: the profile's
            `adaptive` or `draft_p_min` goes.

    Raises:
        ProfileError: unknown profile, broken YAML, or settings that break a rule.
    """
    settings = _read(profile)
    speculation = _merge_speculation(settings.pop("speculation", {}), overrides.get("speculation") or {})
    given = {key: value for key, value in overrides.items() if value is not None and key != "speculation"}
    try:
        return RuntimeConfig.model_validate({**settings, **given, "speculation": speculation})
    except ValidationError as error:
        raise ProfileError("; ".join(sentences(error))) from None


def _read(profile: str) -> dict[str, Any]:
    path = FOLDER / f"{profile}.yaml" if profile in names() else Path(profile)
    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ProfileError(f"profile: no profile {profile!r}; use one of {', '.join(names())}, or a file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"profile: {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ProfileError(f"profile: {path} must be a mapping of settings")
    return settings


def _merge_speculation(profile: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: value for key, value in given.items() if value is not None}
    algorithm = chosen.get("algorithm", profile.get("algorithm"))
    merged = {**profile, **chosen} if algorithm == profile.get("algorithm") else chosen
    if not chosen.keys().isdisjoint(TREE_NUMBERS):
        merged = {key: value for key, value in merged.items() if key in chosen or key not in FOLLOWING}
    if isinstance(merged.get("draft"), str):
        merged["draft"] = _shipped(merged["draft"])
    return merged


def _shipped(path: str) -> str:
    """A relative path that exists in this repository, made absolute; anything else as it is."""
    return str(ROOT / path) if not Path(path).exists() and (ROOT / path).exists() else path


def sentences(error: ValidationError) -> list[str]:
    """One sentence per broken rule, each beginning with the field."""
    sentences = []
    for detail in error.errors():
        message = detail["msg"].removeprefix("Value error, ")
        field = ".".join(str(part) for part in detail["loc"])
        sentences.append(message if detail["type"] == "value_error" else f"{field}: {message[0].lower()}{message[1:]}")
    return sentences
