"""The target's chat template: conversations as ids, and what stands around a user's message.

Owns the rendering. Refuses to own which conversations there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from draft_models.errors import DataError, TargetError

Message = dict[str, str]
"""`{"role": ..., "content": ...}`"""

SENTINEL = "aeriesentinel"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """A conversation up to where the target answers.

    Raises:
        DataError: the template refuses it (some know no system message).
    """
    ids: list[int] = tokenizer.encode(_rendered(tokenizer, messages), add_special_tokens=False)
    return ids


@dataclass(frozen=True)
class UserTurn:
    """The template's text around a user's first message, up to where the target answers."""

    before: str
    after: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Found by rendering a message that is easy to find again.

        Raises:
            TargetError: the template has nothing before the message, or does not show it.
        """
        before, found, after = _rendered(tokenizer, [{"role": "user", "content": SENTINEL}]).partition(SENTINEL)
        if not found or not before:
            raise TargetError("the chat template has nothing before a user's message that the target could go on from")
        return cls(before, after)

    def text(self, prompt: str) -> str:
        """The user's message in a rendered prompt of one turn."""
        inner = prompt.strip().removeprefix(self.before.strip()).removesuffix(self.after.strip())
        return inner.strip()


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error
