"""Which prompts are answered, and how: the recipe, the prompts that fit it, and what was left out and why.

Also which rows are trained on, where nobody looked for evaluation prompts when they were generated.

Owns these decisions, all of them functions of the recipe and the prompt. Refuses to own files and generation.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase

from draft_models.data import Row
from draft_models.errors import DataError
from draft_models.overlap import Overlap
from draft_models.prompts import Conversation, read_evaluation
from draft_models.template import Message, UserTurn, prompt_ids

OVERLAP = "in overlap with evaluation prompts"


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """How answers are generated; a file that is gone on with must have the same one."""

    max_tokens: int = Field(default=256, ge=1, description="an answer ends here")
    max_length: int = Field(default=2048, ge=2, description="tokens of prompt and answer, at most the target's context")
    temperature: float = Field(default=0.7, ge=0, le=2, description="of the answers that are not greedy")
    greedy_share: float = Field(default=0.85, ge=0, le=1, description="answers at temperature 0")
    seed: int = 0

    @property
    def room(self) -> int:
        """Tokens a prompt may have."""
        return self.max_length - self.max_tokens

    def temperature_of(self, key: str) -> float:
        """A prompt's temperature, whatever other prompts there are."""
        greedy = random.Random(f"{self.seed}/{key}/greedy").random() < self.greedy_share  # noqa: S311  not cryptography
        return 0.0 if greedy else self.temperature

    def seed_of(self, key: str, attempt: int = 0) -> str:
        """What a prompt's random numbers follow from."""
        return f"{self.seed}/{key}/{attempt}"


@dataclass(frozen=True)
class Prompt:
    """A conversation to be answered, in words and in the target's tokens."""

    key: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]


@dataclass
class Skipped:
    """How many prompts were left out, by reason, with the first example of each."""

    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """One more."""
        count, first = self.reasons.get(reason, (0, example))
        self.reasons[reason] = count + 1, first

    def lines(self) -> list[str]:
        """One a reason."""
        return [f"{count} {reason}, the first {example}" for reason, (count, example) in self.reasons.items()]


@dataclass(frozen=True)
class Screen:
    """What a prompt must pass."""

    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    overlap: Overlap

    def prompt(self, conversation: Conversation, skipped: Skipped) -> Prompt | None:
        """Its tokens, if it is to be answered.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        match = self.overlap.find(conversation.text)
        if match:
            skipped.add(OVERLAP, f"{conversation.place} ({match})")
            return None
        try:
            ids = prompt_ids(self.tokenizer, conversation.messages)
        except DataError as error:
            raise DataError(f"{conversation.place}: {error}") from error
        if len(ids) > self.recipe.room:
            skipped.add(f"longer than {self.recipe.room} tokens", f"{conversation.place} ({len(ids)} tokens)")
            return None
        return Prompt(conversation.key, conversation.messages, tuple(ids))


def select(
    conversations: Iterable[Conversation], screen: Screen, limit: int | None = None
) -> tuple[list[Prompt], Skipped]:
    """The first `limit` that pass, and what was left out on the way."""
    skipped = Skipped()
    found = (screen.prompt(conversation, skipped) for conversation in conversations)
    return list(islice((prompt for prompt in found if prompt), limit)), skipped


def overlap_with(files: Iterable[Path]) -> Overlap:
    """With the evaluation prompts of these files, all their turns.

    Raises:
        DataError: a file cannot be read.
    """
    return Overlap({prompt.place: prompt.turns for path in files for prompt in read_evaluation(path)})


def without_overlap(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, overlap: Overlap
) -> tuple[list[Row], Skipped]:
    """Rows whose prompts are not among the evaluation's, and how many are."""
    turn, kept, skipped = UserTurn.of(tokenizer), list[Row](), Skipped()
    for row in rows:
        match = overlap.find(turn.text(str(tokenizer.decode(list(row.ids[: row.response_start])))))
        if match:
            skipped.add(OVERLAP, f"{row.key} ({match})")
        else:
            kept.append(row)
    return kept, skipped
