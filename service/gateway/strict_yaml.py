"""Strict YAML files: from bytes to a checked model, or to one error that says where and why.

Owns the loader (a field given twice is an error, not the last one's victory) and the words of its errors, which never
quote the file: it may hold secrets. Refuses to own what is in a file and reading it (reload.py).
"""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

MAX_SENTENCES = 5

Model = TypeVar("Model", bound=BaseModel)

# PyYAML's constructors let these through for scalars that are not what their tag says: `!!bool x`, `2026-13-01`.
_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError)
_QUOTED = re.compile(r"'[^']{3,}'|\"[^\"]{3,}\"")
_FIELD = re.compile(r"[a-z_][a-z0-9_]{0,23}")


class Section(BaseModel):
    """A part of a file: frozen, strict, without unknown fields."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class FileError(ValueError):
    """The file cannot be used: sentences that each begin with the place in the file."""

    def __init__(self, sentences: Sequence[str]) -> None:
        more = len(sentences) - MAX_SENTENCES
        super().__init__("; ".join([*sentences[:MAX_SENTENCES], *([f"and {more} more"] if more > 0 else [])]))


def parse(data: bytes, model: type[Model]) -> Model:
    """The file as this model.

    Raises:
        FileError: anything in it is wrong; then none of it counts.
    """
    try:
        return model.model_validate(_document(data))
    except ValidationError as error:
        raise FileError([_sentence(detail) for detail in error.errors(include_url=False)]) from None


class _Loader(yaml.SafeLoader):
    """YAML in which a mapping's fields are given once; merging (`<<: *defaults`) is not giving twice.

    Not the loader in C, seven times as fast: it crashes the process on deeply nested input.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The node, if no field in it is given twice."""
        node = super().compose_mapping_node(anchor)
        assert isinstance(node, yaml.MappingNode)
        seen: set[tuple[str, str]] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if (name.tag, name.value) in seen:
                    raise yaml.MarkedYAMLError(problem="the field is given twice", problem_mark=name.start_mark)
                seen.add((name.tag, name.value))
        return node


def _document(data: bytes) -> dict[Any, Any]:
    try:
        document = yaml.load(data.decode("utf-8-sig"), _Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError:
        raise FileError(["the file is not UTF-8 text"]) from None
    except _NOT_YAML as error:
        raise FileError([f"the file is not valid YAML{_where(error)}"]) from None
    if document is None:
        raise FileError(["the file is empty"])
    if not isinstance(document, dict):
        raise FileError(["the file must be a mapping"])
    return document


def _where(error: Exception) -> str:
    """Line, column and problem; what PyYAML quotes from the file stays out."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ""
    mark, problem = error.problem_mark, _QUOTED.sub("...", error.problem or "")
    return f": line {mark.line + 1}, column {mark.column + 1}: {' '.join(problem.split())}"


def _sentence(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            message = "unknown field"
        case "missing":
            message = "is missing"
        case "model_type":
            message = "must be a mapping"
        case "too_short":
            message = "must not be empty"
    message = message[0].lower() + message[1:]
    return f"{path}: {message}" if (path := _path(detail["loc"])) else message


def _path(steps: Sequence[int | str]) -> str:
    """`keys[3].limits.burst`; a name that could be a misplaced key or hash is not repeated."""
    shown = (f"[{step}]" if isinstance(step, int) else f".{step if _FIELD.fullmatch(step) else '?'}" for step in steps)
    return "".join(shown).removeprefix(".")
