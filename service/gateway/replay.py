"""A request asked once more, of a runtime without speculation; SGLang's wire as recorded from 0.5.23.

Owns which requests can be compared, their replay's body, and the way from what was said, to the client and by the
baseline, to what is compared. Refuses to own the comparison (compare.py) and asking (losslessness.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.gateway.compare import Answer, Choice, Token

ALTERNATIVES = 5
"""That the baseline tells beside each token."""
SLACK_TOKENS = 8
"""That a replay may be longer than the answer: enough to see that the baseline goes on, too few to cost."""

_PLAIN = frozenset(
    {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "stop", "seed", "top_p", "top_k", "stream"}
    | {"stream_options", "rid", "return_spec_tokens_details", "chat_template_kwargs", "reasoning_effort"}
)
_NEUTRAL: Mapping[str, object] = {
    "temperature": 0,
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "logprobs": False,
    "echo": False,
}
"""What may be asked for only if it asks for nothing; greedy alone can be compared."""
_ONLY_ITS_OWN = frozenset({"stream", "stream_options", "return_spec_tokens_details", "max_completion_tokens"})
"""Fields that a replay leaves out."""


class Incomparable(Exception):
    """Nothing can be said of this answer; the message says why, without its text."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as SGLang tells it. `matched`: the token or the stop that ended it; None where its length did."""

    text: str
    matched: int | str | None

    def answer(self, texts: Mapping[int, str]) -> Answer:
        """As it is compared; `texts` are those of the tokens that end answers."""
        tail = texts[self.matched] if isinstance(self.matched, int) else self.matched or ""
        return Answer(self.text, tail, cut=self.matched is None)


def replay_body(body: bytes, rid: str, completion_tokens: int) -> bytes | None:
    """The same question to the baseline: whole, with logprobs, and hardly longer than the answer was.

    None where it is not a greedy request for one plain text.
    """
    asked = orjson.loads(body)
    if "temperature" not in asked or not all(_is_plain(field, value) for field, value in asked.items()):
        return None
    limits = [asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked]
    wanted = {field: value for field, value in asked.items() if field not in _ONLY_ITS_OWN}
    wanted |= {"rid": rid, "max_tokens": min([*limits, completion_tokens + SLACK_TOKENS])}
    wanted |= {"logprobs": True, "top_logprobs": ALTERNATIVES} if "messages" in asked else {"logprobs": ALTERNATIVES}
    return orjson.dumps(wanted)


def _is_plain(field: str, value: object) -> bool:
    return field in _PLAIN or (field in _NEUTRAL and value == _NEUTRAL[field])


def told_to_client(data: bytes, *, stream: bool) -> Told:
    """What the client was sent.

    Raises:
        Incomparable: not one plain text.
    """
    try:
        documents = [orjson.loads(event) for event in _events(data)] if stream else [orjson.loads(data)]
        choices = [choice for document in documents for choice in document["choices"]]
        ends = [choice for choice in choices if choice["finish_reason"]]
        return Told("".join(map(_text, choices)), _matched(ends[-1]))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Incomparable("the client's answer has no end") from error


def _events(data: bytes) -> Iterable[bytes]:
    events = (event.strip() for event in data.split(b"\n\n"))
    return (event.removeprefix(b"data: ") for event in events if event.startswith(b"data: {"))


def told_by_baseline(document: Mapping[str, Any]) -> tuple[Told, list[Token]]:
    """What the baseline answered, and its tokens.

    Raises:
        Incomparable: not one plain text with logprobs.
    """
    try:
        choice = document["choices"][0]
        logprobs = choice["logprobs"]
        tokens = _of_chat(logprobs["content"]) if "message" in choice else _of_completion(logprobs)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Incomparable("the baseline's answer has no logprobs") from error
    return Told(_text(choice), _matched(choice)), tokens


def _text(choice: Mapping[str, Any]) -> str:
    """Of a whole answer or of a chunk."""
    said = choice.get("message") or choice.get("delta") or choice
    if said.get("reasoning_content") or said.get("tool_calls"):
        raise Incomparable("the answer has parts that were taken out of its text")
    return said.get("content") or said.get("text") or ""


def _matched(choice: Mapping[str, Any]) -> int | str | None:
    """What ended it; None for its length."""
    reason, matched = choice["finish_reason"], choice.get("matched_stop")
    if reason == "length":
        return None
    if reason != "stop" or not isinstance(matched, int | str):
        raise Incomparable("the answer ended in a way that is not compared")
    return matched


def _of_chat(content: Sequence[Mapping[str, Any]]) -> list[Token]:
    """`bytes` are the token's own, parts of characters too (serving_chat.py, _build_token_logprobs_from_raw)."""
    return [Token(_of_bytes(token), tuple(_of_bytes(other) for other in token["top_logprobs"])) for token in content]


def _of_bytes(token: Mapping[str, Any]) -> Choice:
    return Choice((bytes(token["bytes"]),), token["logprob"])


def _of_completion(logprobs: Mapping[str, Any]) -> list[Token]:
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [
        Token(_of_text(text, logprob), tuple(_of_text(*other) for other in top.items())) for text, logprob, top in rows
    ]


def _of_text(text: str, logprob: float) -> Choice:
    """SGLang writes a part of a character as Latin-1 (utils.py, _lossless_token_text), which a text may be too."""
    spelling = text.encode(errors="surrogatepass")
    if text.isascii() or max(text) > "\xff":
        return Choice((spelling,), logprob)
    return Choice((spelling, text.encode("latin-1")), logprob)
