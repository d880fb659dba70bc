"""Where a load's prompts come from: files (a task each), lengths, or a mix of both; one of them.

Owns how several become one sequence, and mix files. Refuses to own the format of a file of prompts (prompt.py).
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import chain, cycle, zip_longest
from pathlib import Path
from typing import Annotated, Self

import orjson
import yaml
from pydantic import Field, ValidationError, model_validator

from loadtest.document import Part, Words, first_fault
from loadtest.errors import PromptsError
from loadtest.prompts.prompt import Prompt, PromptSet, load
from loadtest.prompts.synthetic import Lengths, synthetic

DRAWN = 1024
"""Prompts drawn from a mix; after these they come again."""


@dataclass(frozen=True)
class PromptSource:
    """What a command was asked for; without files, lengths and a mix: the bundled prompts."""

    files: tuple[Path, ...] = ()
    lengths: Lengths | None = None
    mix: Path | None = None
    system: str | None = None
    """Said to the model before every conversation."""
    seed: int = 0
    """Of words and draws."""

    def prompts(self) -> PromptSet:
        """All of them.

        Raises:
            PromptsError: a file is unreadable, empty or broken.
        """
        found = self._found()
        if self.system is None:
            return found
        return _named(found.name, [replace(prompt, system=self.system) for prompt in found.prompts])

    def _found(self) -> PromptSet:
        if self.mix is not None:
            return _named(self.mix.name, _drawn(self.mix, self.seed))
        if self.lengths is not None:
            return _named(f"synthetic {self.lengths}", synthetic(self.lengths, self.seed))
        if len(self.files) < 2:
            return load(self.files[0] if self.files else None)
        return _named(" ".join(path.name for path in self.files), _in_turns([_task(path) for path in self.files]))


def leaving(prompts: Sequence[Prompt], share: float, seed: int) -> Iterator[Prompt]:
    """The prompts again and again; a share of the users leaves, at some part of the answer, both drawn by the seed."""
    draw = random.Random(f"leaves {seed}")  # noqa: S311 - traffic, no secret
    for prompt in cycle(prompts):
        leaves, at = draw.random() < share, draw.random()
        yield replace(prompt, leaves_at=at) if leaves else prompt


def _named(name: str, prompts: Sequence[Prompt]) -> PromptSet:
    lines = b"\n".join(orjson.dumps(astuple(prompt)) for prompt in prompts)
    return PromptSet(name, hashlib.sha256(lines).hexdigest(), tuple(prompts))


def _task(path: Path) -> tuple[Prompt, ...]:
    """The prompts of one file of several: all of one task."""
    found = load(path)
    return tuple(replace(prompt, task=found.task) for prompt in found.prompts)


def _in_turns(tasks: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """One of each task, then again, so that a load that is cut short has as many of each."""
    return [prompt for prompt in chain.from_iterable(zip_longest(*tasks)) if prompt is not None]


class _Entry(Part):
    """A task of a mix: a file, or lengths."""

    file: Words | None = None
    synthetic: Words | None = None
    name: Words | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.synthetic is None):
            raise ValueError("name a file, or synthetic lengths")
        return self

    def prompts(self, folder: Path, seed: int) -> tuple[Prompt, ...]:
        """All of this task."""
        found = synthetic(Lengths.parse(self.synthetic), seed) if self.synthetic else _task(folder / (self.file or ""))
        return tuple(replace(prompt, task=self.name) for prompt in found) if self.name else found


class _Mix(Part):
    tasks: Annotated[list[_Entry], Field(min_length=1)]


def _drawn(path: Path, seed: int) -> list[Prompt]:
    """A task by its weight, then its next prompt, so many times."""
    try:
        mix = _Mix.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise PromptsError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise PromptsError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise PromptsError(f"{path}: not a mix of prompts ({first_fault(error)})") from error
    tasks = [cycle(entry.prompts(path.parent, seed)) for entry in mix.tasks]
    draw = random.Random(f"mix {seed}")  # noqa: S311 - traffic, no secret
    return [next(task) for task in draw.choices(tasks, [entry.weight for entry in mix.tasks], k=DRAWN)]
