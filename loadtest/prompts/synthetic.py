"""Synthetic prompts: about so many tokens of seeded words, each answered with so many tokens exactly.

Owns the words. How many tokens a tokenizer makes of them is its own affair: these words are one token each for most,
and a report tells the tokens that were really there, from usage.
"""

import random
import re
from dataclasses import dataclass
from typing import Self

from loadtest.errors import PromptsError
from loadtest.prompts.prompt import Prompt

COUNT = 256
"""Prompts that differ; after these they come again, and a prefix cache knows them."""

_WORDS = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother area
    money story fact month lot right study book eye job word business issue side kind head house service friend father
    power hour game line end member law car city community name president team minute idea body information back parent
    face others level office door health person art war history party result change morning reason research girl guy
    moment air teacher force education
""".split()  # noqa: SIM905 - a list of its words is not easier to read


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt, about, and of its answer, exactly."""

    prompt_tokens: int
    answer_tokens: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`512:128`.

        Raises:
            PromptsError: something else.
        """
        found = re.fullmatch(r"([1-9]\d{0,6}):([1-9]\d{0,6})", text, re.ASCII)
        if found is None:
            raise PromptsError(
                f"{text!r} is no pair of lengths: write tokens of a prompt and of its answer, as in 512:128"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.prompt_tokens}:{self.answer_tokens}"


def synthetic(lengths: Lengths, seed: int) -> tuple[Prompt, ...]:
    """Prompts that differ from the first words on, so that no cache of prefixes helps; the same seed, the same ones."""
    draw = random.Random(f"{lengths} {seed}")  # noqa: S311 - words, no secret
    task = f"synthetic {lengths}"
    return tuple(
        Prompt(
            (" ".join(draw.choices(_WORDS, k=lengths.prompt_tokens)),),
            task=task,
            name=f"synthetic-{number}",
            answer_tokens=lengths.answer_tokens,
        )
        for number in range(COUNT)
    )
