"""Whether an answer is what the baseline says, token by token, tolerant of numerics: pure.

Owns the walk and its verdict. Refuses to own where answers come from (replay.py) and what a verdict leads to
(losslessness.py).

Greedy decoding takes the likeliest token. Two correct runtimes differ where two tokens are as likely as rounding can
tell: batch shapes change the order of sums. From such a token on they say different things, so the walk ends there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """How a check ended: a closed set, fit for a label."""

    SAME = "same"
    WITHIN_EPSILON = "within_epsilon"
    """They differ where the baseline itself was undecided."""
    MISMATCH = "mismatch"
    FAILED = "failed"
    """The baseline did not answer, or not in a form that can be compared."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A token as a runtime tells it: what it may be in bytes (SGLang's text of it may be read in two ways)."""

    spellings: tuple[bytes, ...]
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One that the baseline chose, and its likeliest alternatives; the chosen one may be among them."""

    chosen: Choice
    alternatives: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, how it ended, and what stood after it: the text of the token or of the stop that ended it.

    `tail` is empty where the number of tokens ended it: `cut`.
    """

    text: str
    tail: str
    cut: bool

    @property
    def spelled(self) -> bytes:
        """All that was generated."""
        return (self.text + self.tail).encode(errors="surrogatepass")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result; of a difference its place, counted in the baseline's tokens, and how sure the baseline was there.

    `gap` is the chosen token's logprob minus that of the answer's; `at_least` where that is not among the alternatives.
    """

    result: Result
    position: int | None = None
    gap: float | None = None
    at_least: bool = False


SAME = Verdict(Result.SAME)
INCOMPARABLE = Verdict(Result.FAILED)


def compare(answer: Answer, baseline: Answer, tokens: Sequence[Token], epsilon: float) -> Verdict:
    """What the baseline's tokens say of the answer.

    Args:
        answer: what the client was told.
        baseline: the same question's answer without speculation.
        tokens: of the baseline's answer, all of them, the one that ended it included.
        epsilon: two tokens whose logprobs differ by no more are alike.
    """
    if answer == baseline:
        return SAME
    said, own, offset = answer.spelled, baseline.spelled, 0
    undecided: Verdict | None = None  # the first token that could have been another one of the same text
    for position, token in enumerate(tokens):
        left = said[offset:]
        gap, at_least = _gap(token, left)
        if gap <= epsilon and not at_least:
            undecided = undecided or Verdict(Result.WITHIN_EPSILON, position, gap)
        length = _length(token.chosen, left, answer)
        if length is None:
            if _length(token.chosen, own[offset:], baseline) is None:
                return INCOMPARABLE  # its tokens do not spell what it says
            return undecided or Verdict(Result.MISMATCH, position, gap, at_least)
        offset += length
        if offset >= len(said):
            return _at_the_end(answer, baseline, offset, position + 1, undecided)
    return undecided or Verdict(Result.MISMATCH, len(tokens))


def _at_the_end(answer: Answer, baseline: Answer, offset: int, position: int, undecided: Verdict | None) -> Verdict:
    """The answer is over, and the baseline said the same so far: is it over as well, and for the same reason?"""
    if offset >= len(baseline.spelled) and answer.cut == baseline.cut:
        return SAME
    return undecided or Verdict(Result.MISMATCH, position)


def _gap(token: Token, left: bytes) -> tuple[float, bool]:
    """Between the chosen token and the likeliest other one that goes on as the answer does; else a lower bound."""
    others = [other for other in token.alternatives if other.spellings != token.chosen.spellings]
    gaps = [token.chosen.logprob - other.logprob for other in others if _goes_on(other, left)]
    if gaps:
        return min(gaps), False
    return token.chosen.logprob - min((other.logprob for other in others), default=token.chosen.logprob), True


def _goes_on(choice: Choice, left: bytes) -> bool:
    return any(form and left.startswith(form) for form in _forms(choice))


def _length(choice: Choice, left: bytes, answer: Answer) -> int | None:
    """Bytes of the answer that the token stands for; None if the answer does not go on with it.

    The last token may reach beyond the stop that ended the answer.
    """
    for form in _forms(choice):
        if left.startswith(form) or (left and answer.tail and form.startswith(left)):
            return len(form)
    return None


def _forms(choice: Choice) -> Iterator[bytes]:
    """Its bytes in a text; of a part of a character that never became whole a text shows only that it is broken."""
    for spelling in choice.spellings:
        yield spelling
        yield spelling.decode(errors="replace").encode()
