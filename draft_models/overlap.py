"""Training prompts that are evaluation prompts, or share a long passage with one: they would flatter the draft.

A text overlaps an evaluation prompt if it shares a run of 13 words with it, as GPT-3's training data were cleaned
(Brown et al. 2020, appendix C). Prompts of 8 to 12 words are compared whole, as a run; shorter ones only for equality.
Words are compared casefolded and without punctuation. A problem whose numbers were changed is not recognised.

Owns the comparison. Refuses to own what becomes of a text that overlaps.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

RUN, SHORTEST_RUN = 13, 8
"""Words in common; GPT-3's bounds of N."""

Run = tuple[str, ...]


class Overlap:
    """The evaluation prompts, by name (a file's line), each with its texts (its turns)."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self._whole: dict[Run, str] = {}
        self._long: dict[Run, str] = {}
        self._openings: set[Run] = set()
        """First words of every run: one look tells whether a text needs a closer one."""
        for name, turns in texts.items():
            for turn in turns:
                self._add(words(turn), name)
        self._lengths = sorted({len(run) for run in self._long})

    def find(self, text: str) -> str | None:
        """The evaluation prompt that the text overlaps, if any."""
        found = words(text)
        if found in self._whole:
            return self._whole[found]
        openings = (index for index, run in enumerate(runs(found, SHORTEST_RUN)) if run in self._openings)
        candidates = (found[start : start + length] for start in openings for length in self._lengths)
        return next((self._long[run] for run in candidates if run in self._long), None)

    def _add(self, turn: Run, name: str) -> None:
        if not turn:
            return
        self._whole.setdefault(turn, name)
        if len(turn) >= SHORTEST_RUN:
            for run in runs(turn, min(RUN, len(turn))):
                self._long.setdefault(run, name)
                self._openings.add(run[:SHORTEST_RUN])


def words(text: str) -> Run:
    """Casefolded, without punctuation and space."""
    return tuple(re.findall(r"\w+", text.casefold()))


def runs(found: Sequence[str], length: int) -> Iterator[Run]:
    """All runs of so many words."""
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))
