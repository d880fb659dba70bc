"""Acceptance recordings, `aerie-acceptance-record/1`: tau of every tree within the widest one.

Owns reading what `aerie-draft record` wrote, and the walk: a cycle that begins at a position accepts as many drafts as
the tree holds there, and the next one begins behind them. Refuses to own how a recording is made and what a tree costs.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from loadtest.document import Count, NotNegative, Part, Sha256, Words, first_fault
from loadtest.errors import TreeError, TuneError
from loadtest.files import numbered_lines
from loadtest.record import Acceptance
from loadtest.tree import Tree

_Line = TypeVar("_Line", bound=BaseModel)
Drawn = Mapping[str, Sequence[int]]
"""Of a resample: which answers of each task, by index."""


class Setting(BaseModel):
    """How the target answered."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    max_tokens: Count
    temperature: NotNegative


class Head(BaseModel):
    """The first line, as far as it matters here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    format: Literal["aerie-acceptance-record/1"]
    widest: Words
    draft: Words
    draft_sha256: Sha256
    prompts_sha256: dict[str, Sha256]
    setting: Setting


class Answer(Part):
    """One answer of the target."""

    task: Words
    prompt_tokens: Count
    answer_tokens: Count
    needed: dict[str, list[list[int]]]
    """By `num_steps/eagle_topk`: at each position, the least num_draft_tokens that holds each draft on the path."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for growth, paths in self.needed.items():
            if len(paths) != self.answer_tokens - 1:
                raise ValueError(f"{growth} has {len(paths)} positions, {self.answer_tokens - 1} are drafted")
        return self

    def acceptance(self, tree: Tree) -> Acceptance:
        """What decoding with this tree accepts."""
        paths = self.needed[f"{tree.num_steps}/{tree.eagle_topk}"]
        correct = passes = position = 0
        while position < len(paths):
            accepted = bisect_right(paths[position], tree.num_draft_tokens)
            accepted = min(accepted, len(paths) - position - 1)  # the answer's last token is a bonus token
            correct, passes, position = correct + accepted, passes + 1, position + accepted + 1
        return Acceptance(correct, passes)


@dataclass(frozen=True)
class Recording:
    """A file."""

    name: str
    sha256: str
    head: Head
    widest: Tree
    tasks: Mapping[str, tuple[Answer, ...]]
    _known: dict[Tree, dict[str, list[Acceptance]]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file.

        Raises:
            TuneError: unreadable, broken, or without an answer; the sentence names the line.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TuneError(f"{path}: {error.strerror}; `aerie-draft record` writes one") from error
        (first, head_line), *lines = numbered_lines(data) or [(1, b"")]
        head = _parse(Head, head_line, f"{path}: line {first}")
        tasks: dict[str, tuple[Answer, ...]] = {}
        for number, line in lines:
            answer = _parse(Answer, line, f"{path}: line {number}")
            if answer.answer_tokens > 1:
                tasks[answer.task] = (*tasks.get(answer.task, ()), answer)
        if not tasks:
            raise TuneError(f"{path}: no answer in it; record again, with more prompts or a larger --max-tokens")
        try:
            widest = Tree.parse(head.widest)
        except TreeError as error:
            raise TuneError(f"{path}: line {first}: {error}") from error
        return cls(path.name, hashlib.sha256(data).hexdigest(), head, widest, tasks)

    def tau(self, tree: Tree, weights: Mapping[str, float], drawn: Drawn | None = None) -> float:
        """Tokens per cycle where the tasks have these shares of the tokens: the harmonic mean of their taus."""
        found = self._known.get(tree)
        if found is None:
            found = {task: [answer.acceptance(tree) for answer in answers] for task, answers in self.tasks.items()}
            self._known[tree] = found
        passes_per_token = 0.0
        for task, weight in weights.items():
            counted = found[task] if drawn is None else [found[task][index] for index in drawn[task]]
            correct, passes = sum(one.correct_drafts for one in counted), sum(one.verify_passes for one in counted)
            passes_per_token += weight * passes / (passes + correct)
        return 1 / passes_per_token


def _parse(kind: type[_Line], line: bytes, place: str) -> _Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise TuneError(f"{place}: not of an acceptance recording ({first_fault(error)})") from error
