"""The chart's values as the tables of its README (scripts/docs.py writes them): `# --` comments of values.yaml.

Owns reading keys with their comments. Refuses to own the values' meaning: it is told in values.yaml and nowhere else.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

VALUES = Path(__file__).resolve().parent.parent / "deploy/helm/aerie/values.yaml"
_KEY = re.compile(r"( *)([A-Za-z0-9]+):")
_COMMENT = re.compile(r" *# -- (.*)")


class Value(NamedTuple):
    """One value. `path` is its keys with dots between; `meaning` is empty where it has no comment."""

    path: str
    default: Any
    meaning: str


def values(text: str) -> Iterator[Value]:
    """Every key that has a comment, and every leaf, in the file's order.

    Leaves below a key with a comment are left out: its default shows them.
    """
    tree = yaml.safe_load(text)
    keys: list[tuple[int, str]] = []
    meaning, told = "", ""
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            meaning = comment[1]
        elif key := _KEY.match(line):
            indent = len(key[1])
            keys = [(depth, name) for depth, name in keys if depth < indent] + [(indent, key[2])]
            path = ".".join(name for _, name in keys)
            default = _at(tree, path)
            if meaning or (not (isinstance(default, dict) and default) and not path.startswith(f"{told}.")):
                told = path
                yield Value(path, default, meaning)
            meaning = ""


def _at(tree: Any, path: str) -> Any:  # noqa: ANN401 - values are of any kind
    for name in path.split("."):
        tree = tree[name]
    return tree


def rows() -> list[tuple[str, ...]]:
    """For a Markdown table: value, default, meaning.

    Raises:
        ValueError: a value without a comment.
    """
    found = list(values(VALUES.read_text()))
    if silent := [value.path for value in found if not value.meaning]:
        raise ValueError(f"{VALUES.name}: say what {', '.join(silent)} is, in a comment that begins with `# --`")
    return [(f"`{value.path}`", f"`{_flow(value.default)}`", value.meaning) for value in found]


def _flow(default: Any) -> str:  # noqa: ANN401
    if isinstance(default, str):
        return default or '""'
    dumped = yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=10_000)
    return dumped.removesuffix("\n").removesuffix("\n...")


def pools() -> str:
    """The pool that values.yaml shows in a comment, as a block of YAML."""
    lines = VALUES.read_text().split("pools: {}\n")[1].splitlines()
    shown = []
    for line in lines:
        if not line.startswith("#"):
            break
        shown.append(line.removeprefix("# ").rstrip())
    return "\n".join(("```yaml", "pools:", *shown, "```"))
