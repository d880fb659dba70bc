"""Training prompts that are evaluation prompts, or share a long passage with one: they would flatter the draft.

A text overlaps an evaluation prompt if it shares a run of 13 words with it, as GPT-3's training data were cleaned
(Brown et al. 2020, appendix C). Prompts of 8 to 12 words are compared whole, as a run; shorter ones only for equality.
Texts of 13 words and more also overlap if half of the shorter one's 5-grams are the other's (containment of shingles:
Broder 1997, "On the resemblance and containment of documents"): a prompt with some words changed.
Words are compared casefolded and without punctuation, and numbers for being numbers, however many there are in a row: a
problem with other numbers is the same one.

Owns the comparison. Refuses to own what becomes of a text that overlaps.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

RUN, SHORTEST_RUN = 13, 8
"""Words in common; GPT-3's bounds of N."""

SHINGLE, SHARE = 5, 0.5
"""Words of an n-gram, and how many of the shorter text's n-grams are in common."""

NUMBERS = re.compile(r"\b\d+(?:\W+\d+)*\b")

Run = tuple[str, ...]


class Overlap:
    """The evaluation prompts, by name (a file's line), each with its texts (its turns)."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self._whole: dict[Run, str] = {}
        self._long: dict[Run, str] = {}
        self._openings: set[Run] = set()
        """First words of every run: one look tells whether a text needs a closer one."""
        self._shingled: list[tuple[str, int]] = []
        """Name and number of 5-grams of every text that is long enough."""
        self._shingles: defaultdict[Run, list[int]] = defaultdict(list)
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
        return next((self._long[run] for run in candidates if run in self._long), None) or self._alike(found)

    def _alike(self, found: Run) -> str | None:
        """The first text with which half of the shorter one's 5-grams are shared."""
        if len(found) < RUN:
            return None
        shingles = set(runs(found, SHINGLE))
        common = Counter(index for shingle in shingles for index in self._shingles.get(shingle, ()))
        alike = (
            index for index, shared in common.items() if shared >= SHARE * min(len(shingles), self._shingled[index][1])
        )
        return next((self._shingled[index][0] for index in sorted(alike)), None)

    def _add(self, turn: Run, name: str) -> None:
        if not turn:
            return
        self._whole.setdefault(turn, name)
        if len(turn) >= SHORTEST_RUN:
            for run in runs(turn, min(RUN, len(turn))):
                self._long.setdefault(run, name)
                self._openings.add(run[:SHORTEST_RUN])
        if len(turn) >= RUN:
            shingles = set(runs(turn, SHINGLE))
            for shingle in shingles:
                self._shingles[shingle].append(len(self._shingled))
            self._shingled.append((name, len(shingles)))


def words(text: str) -> Run:
    """Casefolded, without punctuation and space; numbers, however many in a row, are `0`."""
    return tuple(re.findall(r"\w+", NUMBERS.sub("0", text.casefold())))


def runs(found: Sequence[str], length: int) -> Iterator[Run]:
    """All runs of so many words."""
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))
