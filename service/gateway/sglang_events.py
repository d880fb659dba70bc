"""What SGLang's answers and the events of its streams mean: bytes in, our words out. Pure.

Owns their shapes, recorded from 0.5.23 (docs/sglang.md). Refuses to own the connection they come over (sglang.py) and
what becomes of them (delivery.py).
"""

import re
from collections.abc import Sequence
from enum import Enum, auto
from itertools import zip_longest
from typing import Any

import orjson

from service.gateway.errors import GatewayError, UpstreamProtocolError, from_sglang, sglang_message
from service.gateway.record import Speculation, Usage


class Kind(Enum):
    """What an event of a stream is, told from its first bytes."""

    CHUNK = auto()
    SUMMARY = auto()  # no choices: usage or acceptance figures
    ERROR = auto()
    DONE = auto()
    COMMENT = auto()


_CHUNK = b'data: {"id"'
_NO_CHOICES = (b'"choices":[]', b'"choices": []')


def leading_chunks(block: bytes) -> tuple[bytes, int]:
    """What nearly every block of events begins with, or is: chunks, as SGLang writes them; and how many.

    `kind_of` for all of them at once: where each event's end is followed by the beginning of another, or of nothing.
    """
    end = min((at for words in _NO_CHOICES if (at := block.find(words)) >= 0), default=len(block))
    last = block.rfind(b"\n\n", 0, end)
    chunks = block[: last + 2] if last >= 0 else b""
    count = chunks.count(b"\n\n")
    if not chunks.startswith(_CHUNK) or chunks.count(b"\n\n" + _CHUNK) != count - 1:
        return b"", 0
    return chunks, count


def kind_of(event: bytes) -> Kind:
    """Cheap: no JSON is parsed. Inside a JSON string the quotes of `"choices":[]` would be escaped.

    Raises:
        UpstreamProtocolError: not an event SGLang sends.
    """
    if event.startswith(b"data: {"):
        if event.startswith(b'"error"', 7):
            return Kind.ERROR
        return Kind.SUMMARY if b'"choices":[]' in event or b'"choices": []' in event else Kind.CHUNK
    if event.startswith(b"data: [DONE]"):
        return Kind.DONE
    if event.startswith(b":"):
        return Kind.COMMENT
    raise UpstreamProtocolError("The runtime sent something that is not an event of a completion.")


def event_document(event: bytes) -> dict[str, Any]:
    """The JSON object of an event.

    Raises:
        UpstreamProtocolError: there is none.
    """
    return json_object(event.removeprefix(b"data: "))


def json_object(body: bytes) -> dict[str, Any]:
    """A whole answer's.

    Raises:
        UpstreamProtocolError: it is none.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UpstreamProtocolError("The runtime's answer is not valid JSON.") from error
    if not isinstance(document, dict):
        raise UpstreamProtocolError("The runtime's answer is not a JSON object.")
    return document


def event_error(event: bytes, *, prompt_param: str) -> GatewayError:
    """The error of an error event: `data: {"error": {"message": ..., "code": 503}}`."""
    error = event_document(event)["error"]
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 500
    return from_sglang(status, sglang_message(event.removeprefix(b"data: ")), prompt_param=prompt_param)


_ID = re.compile(rb'^data: \{"id":"([^"\\]{1,128})"')


def adopt_id(event: bytes, rid: str) -> tuple[bytes, str | None]:
    """The event under our id, and the id it came with: n > 1 and lists of prompts run under ids of SGLang's own."""
    found = _ID.match(event)
    if found is None:
        return event, None
    return b'data: {"id":"' + rid.encode() + b'"' + event[found.end() :], found[1].decode(errors="replace")


def usage_of(document: dict[str, Any]) -> Usage | None:
    """The usage of an answer or an event, if it has one."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    try:
        return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UpstreamProtocolError("The runtime's usage is not what SGLang sends.") from error


def speculation_of(document: dict[str, Any]) -> Speculation | None:
    """The acceptance figures, summed over choices: with n > 1 SGLang sends a list.

    For a list of prompts SGLang sends the first prompt's figures only (serving_completions.py).
    """
    extension = document.get("sglext")
    details = extension.get("spec_tokens_details") if isinstance(extension, dict) else None
    if not details:
        return None
    try:
        return _sum_details(details if isinstance(details, list) else [details])
    except (KeyError, TypeError, ValueError) as error:
        raise UpstreamProtocolError("The runtime's acceptance figures are not what SGLang sends.") from error


def _proposed_drafts(choice: dict[str, Any]) -> int:
    """SGLang counts a whole tree for every pass; of those that verify less it says how many nodes, root included."""
    passes, proposed = int(choice["spec_verify_ct"]), int(choice["spec_num_proposed_drafts"])
    of_size = [int(count) for count in choice.get("spec_cap_lens_histogram") or ()]
    of_whole_trees = proposed * (passes - sum(of_size)) // passes if passes else proposed
    return of_whole_trees + sum(count * (nodes - 1) for nodes, count in enumerate(of_size))


def _sum_details(choices: Sequence[dict[str, Any]]) -> Speculation:
    histograms = [choice["spec_correct_drafts_histogram"] for choice in choices]
    return Speculation(
        verify_passes=sum(int(choice["spec_verify_ct"]) for choice in choices),
        correct_drafts=sum(int(choice["spec_num_correct_drafts"]) for choice in choices),
        proposed_drafts=sum(map(_proposed_drafts, choices)),
        histogram=tuple(sum(map(int, passes)) for passes in zip_longest(*histograms, fillvalue=0)),
    )
