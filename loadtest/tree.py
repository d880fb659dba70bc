"""Draft trees as people write them: `num_steps/eagle_topk/num_draft_tokens`.

Owns the notation and SGLang's bounds on it. Refuses to own what a tree accepts (planning/acceptance.py, tuning/).
"""

from dataclasses import dataclass
from typing import Self

from loadtest.errors import TreeError

ADAPTIVE = ", adaptive"
"""After a runtime's tree: that of one request, or the largest, for drafts that follow the batch size."""


@dataclass(frozen=True, order=True)
class Tree:
    """The root counts among `num_draft_tokens`."""

    num_steps: int
    eagle_topk: int
    num_draft_tokens: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `3/4/8`.

        Raises:
            TreeError: not a tree that SGLang would run.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise TreeError(f"{text!r} is not a tree: write num_steps/topk/num_draft_tokens, as 3/4/8")
        tree = cls(*map(int, parts))
        least, most = tree.bounds
        if not least <= tree.num_draft_tokens <= most:
            raise TreeError(f"{text}: num_draft_tokens must lie between {least} and {most} for these steps and topk")
        return tree

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and most `num_draft_tokens` that its depth and breadth allow."""
        return self.num_steps + 1, 1 + self.eagle_topk + (self.num_steps - 1) * self.eagle_topk**2

    def __str__(self) -> str:
        return f"{self.num_steps}/{self.eagle_topk}/{self.num_draft_tokens}"
