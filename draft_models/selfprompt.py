"""Self-prompting, as Magpie does it (Xu et al. 2024): the target writes the user's message too, then answers it.

The chat template's text before a user's message is all the target is given. What it writes up to the end of the turn is
then rendered through the template like any other prompt. A turn that is no use (it does not end, is empty, too long, or
overlaps an evaluation prompt) is sampled again with another seed, a few times, and then given up for good: its seeds
would say the same again.

Owns these turns. Refuses to own the answers.
"""

from collections import Counter
from collections.abc import Callable

from draft_models.errors import TargetError
from draft_models.generate import Generated, Request
from draft_models.prompts import Conversation
from draft_models.selection import Prompt, Recipe, Screen, Skipped
from draft_models.template import UserTurn

TURN = "turn"
TURN_TOKENS, TURN_TEMPERATURE = 128, 1.0
TRIES = 4


def self_prompt_keys(recipe: Recipe, count: int) -> list[str]:
    """Of so many self-prompts: more of them begin with the same ones."""
    return [f"self-{recipe.seed}-{index}" for index in range(count)]


class SelfPrompts:
    """Requests for user turns, and the prompts that come of them."""

    def __init__(
        self, screen: Screen, end_of_sequence: set[int], skipped: Skipped, give_up: Callable[[str], None]
    ) -> None:
        """`give_up` hears the keys that no turn came of. Raises TargetError: the template has nothing to start from."""
        self.screen, self.skipped, self._give_up, self._tries = screen, skipped, give_up, Counter[str]()
        tokenizer = screen.tokenizer
        self._turn = UserTurn.of(tokenizer)
        if not self._turn.before.strip():
            raise TargetError(
                "the chat template has nothing before a user's message that the target could go on from; "
                "leave --self-prompts out"
            )
        self._before = tuple(tokenizer.encode(self._turn.before, add_special_tokens=False))
        # the turn ends with what the template puts after it, or as an answer does; any other special token breaks it
        after = tokenizer.encode(self._turn.after, add_special_tokens=False)
        special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ends = end_of_sequence | (set(after[:1]) & special)
        self._stop = frozenset(self._ends | special)

    def request(self, key: str) -> Request:
        """For a user turn."""
        seed = self.screen.recipe.seed_of(f"{key}/turn", self._tries[key])
        return Request(key, self._before, TURN_TOKENS, self._stop, TURN_TEMPERATURE, seed, TURN)

    def prompt(self, turn: Generated) -> Prompt | None:
        """What the turn asks; None if it is no use."""
        key, text = turn.request.key, self._text(turn)
        if not text:
            self.skipped.add("self-prompted turns without text or end", key)
            return None
        return self.screen.prompt(Conversation(key, ({"role": "user", "content": text},), key), self.skipped)

    def again(self, turn: Generated) -> Request | None:
        """Another try, if there is one left."""
        key = turn.request.key
        self._tries[key] += 1
        if self._tries[key] < TRIES:
            return self.request(key)
        self._give_up(key)
        return None

    def _text(self, turn: Generated) -> str:
        """The message; nothing if it does not end."""
        text = str(self.screen.tokenizer.decode(list(turn.ids), skip_special_tokens=True))
        marker = self._turn.after.strip()  # a template without special tokens ends a turn in words
        head, found, _ = text.partition(marker) if marker else (text, "", "")
        return head.strip() if found or turn.ids[-1] in self._ends else ""
