"""Whether two sides write the same: greedy answers to the same prompts, compared token by token.

Speculation leaves the target's output as it is, but a pass over several tokens adds in another order than a pass over
one, and in low precision two tokens of nearly equal likelihood may change places. So where two answers part, the
reference is asked how likely it found the other side's token: nearly as likely as its own is numerics, anything else
is a difference. Owns this judgement. Refuses to own HTTP (client.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.client import Client
from loadtest.comparison import SameText
from loadtest.errors import EndpointError
from loadtest.prompts import Prompt

EPSILON = 0.25
"""Of logprobs; that of the gateway's losslessness check (docs/losslessness.md)."""
_ALTERNATIVES = 5
_SHOWN = 60
_HALF_CHARACTER = "\ufffd"
_SPECIAL = re.compile(r"^<.*>$")
"""As chat templates write the token that ends a turn: <|im_end|>, </s>, <end_of_turn>."""

Verdict = Literal["same", "alike", "different"]


@dataclass(frozen=True)
class Token:
    """A token of the reference's answer."""

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...]
    """The likeliest, with their logprobs."""


def judge(answer: str, text: str, tokens: Sequence[Token]) -> Verdict | None:
    """One answer against the reference's text and its tokens; None where half characters hide which token is which."""
    if answer == text:
        return "same"
    at, seen = 0, list[tuple[int, Token]]()
    for token in tokens:
        if _HALF_CHARACTER in token.text:
            return None
        seen.append((at, token))
        if not answer.startswith(token.text, at):
            return "alike" if any(_nearly_led(answer, start, each, at) for start, each in seen) else "different"
        at += len(token.text)
    return "different"


def _nearly_led(answer: str, start: int, token: Token, parted: int) -> bool:
    """Whether another token, nearly as likely there, leads past where the texts part: it may begin as this one does."""
    others = (text for text, logprob in token.alternatives if token.logprob - logprob <= EPSILON)
    return any(
        _goes_on(answer[start:], other) and start + len(other) > parted for other in others if other != token.text
    )


def _goes_on(rest: str, token: str) -> bool:
    """Whether this may be the token with which the rest begins; the one that ends an answer has no text in it."""
    return rest.startswith(token) if rest else bool(_SPECIAL.match(token))


async def compare(ours: Client, reference: Client, prompts: Sequence[Prompt], model: str, max_tokens: int) -> SameText:
    """Ask both, one prompt after another.

    Raises:
        EndpointError: an endpoint does not answer, or does not tell logprobs.
    """
    counts: dict[Verdict, int] = {"same": 0, "alike": 0, "different": 0}
    example = None
    for prompt in prompts:
        body = {"model": model, "messages": prompt.messages, "max_tokens": max_tokens, "temperature": 0}
        answer = _text(ours, await ours.complete(body))
        asked = await reference.complete({**body, "logprobs": True, "top_logprobs": _ALTERNATIVES})
        text = _text(reference, asked)
        verdict = judge(answer, text, _tokens(reference, asked))
        if verdict is not None:
            counts[verdict] += 1
        if verdict == "different" and example is None:
            example = _difference(answer, text)
    return SameText(compared=sum(counts.values()), epsilon=EPSILON, example=example, **counts)


def _difference(ours: str, theirs: str) -> str:
    same = next((at for at, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
    at = min(len(ours), len(theirs)) if same is None else same
    return f"after {at} characters: {ours[at : at + _SHOWN]!r} where b has {theirs[at : at + _SHOWN]!r}"


def _text(client: Client, document: dict[str, Any]) -> str:
    try:
        return document["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"{client.url}: /v1/chat/completions: in unknown words") from error


def _tokens(client: Client, document: dict[str, Any]) -> list[Token]:
    try:
        told = document["choices"][0]["logprobs"]["content"]
        return [
            Token(each["token"], each["logprob"], tuple((one["token"], one["logprob"]) for one in each["top_logprobs"]))
            for each in told
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"{client.url}: tells no logprobs: the texts cannot be compared (--same-text 0)") from error
