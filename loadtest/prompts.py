"""Prompts: JSON lines with `turns`, checked whole before anything is sent; the bundled ones otherwise.

Owns the file format and its digest. Refuses to own chat templates: those are the server's.

The bundled prompts (`prompts.jsonl`) were written for this project and are under its licence, Apache-2.0.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import orjson

from loadtest.errors import PromptsError
from loadtest.files import numbered_lines

BUNDLED = "bundled"


@dataclass(frozen=True)
class Prompt:
    """What a user says, turn by turn."""

    turns: tuple[str, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The first turn as a conversation."""
        return [{"role": "user", "content": self.turns[0]}]


@dataclass(frozen=True)
class PromptSet:
    """Prompts, the name of their file, and its SHA-256."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]

    @property
    def task(self) -> str:
        """Its name without the file's suffix: what its figures are told under."""
        return Path(self.name).stem


def load(path: Path | None) -> PromptSet:
    """The prompts of a file; without one, the bundled ones.

    Raises:
        PromptsError: unreadable, empty or broken; the sentence names the line.
    """
    if path is None:
        return _parse(BUNDLED, resources.files("loadtest").joinpath("prompts.jsonl").read_bytes())
    try:
        return _parse(path.name, path.read_bytes(), str(path))
    except OSError as error:
        raise PromptsError(f"{path}: {error.strerror}") from error


def _parse(name: str, data: bytes, shown: str = BUNDLED) -> PromptSet:
    lines = numbered_lines(data)
    if not lines:
        raise PromptsError(f"{shown}: no prompt in it")
    prompts = tuple(_prompt(line, f"{shown}: line {number}") for number, line in lines)
    return PromptSet(name, hashlib.sha256(data).hexdigest(), prompts)


def _prompt(line: bytes, place: str) -> Prompt:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PromptsError(f"{place} is not JSON ({error})") from error
    turns = document.get("turns") if isinstance(document, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise PromptsError(f'{place} has no "turns", a list of texts')
    return Prompt(tuple(turns))
