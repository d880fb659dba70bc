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

SENTINEL, SYSTEM_SENTINEL = "aeriesentinel", "aeriesystem"


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
    """A default system message included."""
    after: str
    opening: str
    """The end of `before`, where it does not depend on the system message."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Found by rendering a message that is easy to find again.

        Raises:
            TargetError: the template does not show it.
        """
        user = {"role": "user", "content": SENTINEL}
        before, found, after = _rendered(tokenizer, [user]).partition(SENTINEL)
        if not found:
            raise TargetError("the chat template does not show a user's message; mend it, or take another target")
        try:
            with_system = _rendered(tokenizer, [{"role": "system", "content": SYSTEM_SENTINEL}, user])
        except DataError:  # it knows no system message
            return cls(before, after, before)
        after_system = with_system.partition(SENTINEL)[0].rpartition(SYSTEM_SENTINEL)[2]
        opening = next(before[at:] for at in range(len(before) + 1) if after_system.endswith(before[at:]))
        return cls(before, after, opening if opening.strip() else before)

    def text(self, prompt: str) -> str:
        """What the user says in a rendered prompt; all of it, where the template does not show where that begins."""
        opening, after = self.opening.strip(), self.after.strip()
        turns = prompt.split(opening)[1:] if opening else []
        return "\n".join(turn.partition(after)[0].strip() if after else turn for turn in turns or [prompt])


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error
