"""The events of a streamed completion, and what they say of tokens and acceptance.

Owns the words of OpenAI, SGLang (`sglext`) and Aerie's gateway (`usage.speculation`) in a stream. Refuses to own HTTP
(client.py). Every event is parsed: an endpoint that streams garbage is found out.

Tokens are counted by usage. An endpoint that was asked for `continuous_usage_stats` and knows them says with every
chunk how many tokens there are; with one that does not, the chunks share the answer's tokens equally.
"""

from itertools import accumulate
from typing import Any

import orjson

from loadtest.record import Acceptance, Answer, Arrival

_LINE_LIMIT_BYTES = 2**20
_FIELDS = (b"event:", b"id:", b"retry:", b":")


class Garbage(Exception):
    """Not a stream of completion events."""


class ErrorEvent(Exception):
    """The endpoint gave up in the middle of a stream; its own words."""


class StreamReader:
    """One stream, fed with bytes as they arrive; its text is kept on request only."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self._rest = b""
        self._texts: list[str] | None = [] if keep_text else None
        self._chunks: list[tuple[float, int | None]] = []
        self._usage: dict[str, Any] = {}
        self._acceptance: Acceptance | None = None
        self._finished_s: float | None = None
        self._done = False

    def feed(self, data: bytes, now_s: float) -> None:
        """Some bytes, and when they came.

        Raises:
            Garbage: they are no event of a completion.
            ErrorEvent: the endpoint says that it failed.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_LIMIT_BYTES:
            raise Garbage("a line without an end")
        for line in lines:
            self._line(line.rstrip(b"\r"), now_s)

    @property
    def tokens(self) -> int:
        """That have come, as far as the stream tells: else its chunks."""
        return (self._chunks[-1][1] or len(self._chunks)) if self._chunks else 0

    def answer(self) -> Answer:
        """What the stream said, once it has ended.

        Raises:
            Garbage: it broke off, or did not tell its usage.
        """
        if not self._done:
            raise Garbage("the stream ended without [DONE]")
        try:
            prompt_tokens, total = (_count(self._usage[name]) for name in ("prompt_tokens", "completion_tokens"))
        except (KeyError, TypeError, ValueError) as error:
            raise Garbage("the stream told no usage: tokens cannot be counted") from error
        if bool(total) != (self._finished_s is not None) and (total or self._chunks):
            raise Garbage(f"the stream told {total} tokens and {len(self._chunks)} chunks of text")
        text = None if self._texts is None else "".join(self._texts)
        return Answer(self._arrivals(total), prompt_tokens, total, self._acceptance, text)

    def _line(self, line: bytes, now_s: float) -> None:
        if not line or line.startswith(_FIELDS):
            return
        if not line.startswith(b"data:"):
            raise Garbage(f"no event of a stream: {_excerpt(line)}")
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self._done = True
        else:
            self._event(payload, now_s)

    def _event(self, payload: bytes, now_s: float) -> None:
        try:
            event = orjson.loads(payload)
            if event.get("error"):
                raise ErrorEvent(error_message(event))
            texts = [_has_text(choice) for choice in event["choices"]]
            usage = event.get("usage")
            tokens = None if usage is None else _count(usage["completion_tokens"])
            self._acceptance = acceptance_of(event) or self._acceptance
            if self._texts is not None:
                self._texts += [_text(choice) for choice in event["choices"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Garbage(f"no event of a completion: {_excerpt(payload)}") from error
        if usage is not None:
            self._usage = usage
        if any(texts):
            self._chunks.append((now_s, tokens))
        self._finished_s = now_s if texts else self._finished_s

    def _arrivals(self, total: int) -> tuple[Arrival, ...]:
        counts = [tokens for _, tokens in self._chunks if tokens is not None]
        if len(counts) < len(self._chunks) or counts != sorted(counts) or max(counts, default=0) > total:
            parts = len(self._chunks)
            return tuple(Arrival(at_s, total * index / parts) for index, (at_s, _) in enumerate(self._chunks, 1))
        arrivals = [Arrival(at_s, count) for (at_s, _), count in zip(self._chunks, counts, strict=True)]
        if total > max(counts, default=0):  # the token that ends an answer has no text
            assert self._finished_s is not None, "tokens come with choices"
            arrivals.append(Arrival(self._finished_s, total))
        return tuple(arrivals)


def _text(choice: dict[str, Any]) -> str:
    """What a chunk adds to the answer itself."""
    return (choice.get("delta") or {}).get("content") or choice.get("text") or ""


def _has_text(choice: dict[str, Any]) -> bool:
    """Whether a chunk brings tokens: text of a chat (an answer, thoughts, a call) or of a plain completion."""
    delta = choice.get("delta") or {}
    return any((choice.get("text"), delta.get("content"), delta.get("reasoning_content"), delta.get("tool_calls")))


def acceptance_of(event: dict[str, Any]) -> Acceptance | None:
    """The acceptance figures of an event, in SGLang's words or in the gateway's.

    Raises:
        KeyError, TypeError, ValueError: figures in other words.
    """
    details = (event.get("sglext") or {}).get("spec_tokens_details")
    if details:
        passes_by_drafts = [_count(passes) for passes in details.get("spec_correct_drafts_histogram") or ()]
        at_least = tuple(accumulate(reversed(passes_by_drafts[1:])))[::-1]
        return Acceptance(_count(details["spec_num_correct_drafts"]), _count(details["spec_verify_ct"]), at_least)
    told = (event.get("usage") or {}).get("speculation")
    if not told:
        return None
    by_position = tuple(map(_count, told.get("accepted_by_position") or ()))
    return Acceptance(_count(told["accepted_drafts"]), _count(told["verify_passes"]), by_position)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def error_message(document: object) -> str:
    """The words of an error body: OpenAI's `{"error": {"message"}}`, or SGLang's flat `{"message"}`."""
    error = document.get("error", document) if isinstance(document, dict) else document
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200]


def _excerpt(data: bytes) -> str:
    return repr(data[:60].decode(errors="replace"))
