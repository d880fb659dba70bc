"""A prompt, and files of them: JSON lines with `turns`, checked whole before anything is sent; else the bundled ones.

Owns the file format and its digest. Refuses to own what is made of several files (source.py) and chat templates: those
are the server's.

The bundled prompts (`bundled.jsonl`) were written for this project and are under its licence, Apache-2.0.
"""

import hashlib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import PromptsError
from loadtest.files import numbered_lines

BUNDLED = "bundled"


@dataclass(frozen=True)
class Prompt:
    """What a user says, turn by turn, and what came before."""

    turns: tuple[str, ...]
    task: str = ""
    """What its figures are summed by: its `task` or `category` in the file, else the file's name without suffix."""
    name: str = ""
    """Its `id` in the file."""
    system: str | None = None
    answer_tokens: int | None = None
    """How long its answer has to be, to the token; None: where the model ends it, or the command's limit."""
    said: tuple[str, ...] = ()
    """The conversation before these turns: user and assistant in turns."""
    leaves_at: float | None = None
    """The share of the longest answer after which the user goes away; None: never."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The first turn as a conversation, with all that came before it."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        said = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(self.said)]
        return [*system, *said, {"role": "user", "content": self.turns[0]}]

    @property
    def turn(self) -> int:
        """Which turn of its conversation the first one is, from 1."""
        return 1 + len(self.said) // 2

    def after(self, answer: str) -> "Prompt | None":
        """The conversation once this was answered; None: that was its last turn."""
        asked, *rest = self.turns
        return replace(self, turns=tuple(rest), said=(*self.said, asked, answer)) if rest else None


@dataclass(frozen=True)
class PromptSet:
    """Prompts, the name of their file or what they are, and a SHA-256: of the file, or of the prompts."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]

    @property
    def task(self) -> str:
        """The name without the file's suffix: what the set's figures are told under."""
        return Path(self.name).stem


def load(path: Path | None) -> PromptSet:
    """The prompts of a file; without one, the bundled ones.

    Raises:
        PromptsError: unreadable, empty or broken; the sentence names the line.
    """
    if path is None:
        return _parse(BUNDLED, resources.files("loadtest.prompts").joinpath("bundled.jsonl").read_bytes())
    try:
        return _parse(path.name, path.read_bytes(), str(path))
    except OSError as error:
        raise PromptsError(f"{path}: {error.strerror}") from error


def _parse(name: str, data: bytes, shown: str = BUNDLED) -> PromptSet:
    lines = numbered_lines(data)
    if not lines:
        raise PromptsError(f"{shown}: no prompt in it")
    stem = Path(name).stem
    prompts = tuple(_prompt(line, f"{shown}: line {number}", stem, number) for number, line in lines)
    return PromptSet(name, hashlib.sha256(data).hexdigest(), prompts)


def _prompt(line: bytes, place: str, stem: str, number: int) -> Prompt:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PromptsError(f"{place} is not JSON ({error})") from error
    turns = document.get("turns") if isinstance(document, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise PromptsError(f'{place} has no "turns", a list of texts')
    task = _word(document, "task") or _word(document, "category") or stem
    return Prompt(tuple(turns), task, _word(document, "id") or f"{stem}-{number}")


def _word(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    return str(value) if isinstance(value, str | int) and str(value).strip() else None
