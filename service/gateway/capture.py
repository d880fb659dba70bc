"""Prompts kept to train the next draft on: opt-in, sampled, redacted, bounded. JSONL that `aerie-draft prepare` reads.

Owns which prompts are kept, in which form, and when they are written: by a thread, never on the event loop. Refuses to
own files (segments.py) and what becomes of them. Only conversations are kept: a draft is trained through the target's
chat template, which has no place for a bare completion's prompt, nor for tools. What cannot be kept is counted.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import orjson

from service.gateway.config import CaptureConfig
from service.gateway.exchange import Exchange
from service.gateway.metrics import Metrics
from service.gateway.record import RequestRecord
from service.gateway.replay import Incomparable, told_to_client
from service.gateway.segments import Segments

SEGMENT_PROMPTS = 500
SEGMENT_S = 60.0
"""A file is written when so many prompts wait, or after so much time."""
HELD_PROMPTS = 2000
HELD_BYTES = 16 * 2**20
"""In memory at most; what comes while the disk is slower than that is dropped."""

_CHAT = "/v1/chat/completions"
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Those a draft is trained on; the two names of instructions are one to a template."""
_RID_DRAWS = 2**32
_MEGABYTE, _DAY_S = 10**6, 86400.0

_log = logging.getLogger("aerie.capture")


class Result(StrEnum):
    """What became of a sampled prompt: a closed set, fit for a label."""

    WRITTEN = "written"
    DROPPED = "dropped"
    """No room for it, or of a form that no draft is trained on."""
    FAILED = "failed"
    """Redaction failed, or writing."""


@dataclass(frozen=True, slots=True)
class Held:
    """A request that waits to be written."""

    body: bytes
    answer: bytes | None
    stream: bool
    task: str
    time_s: float


class Capture:
    """Keeps the prompts of a share of the requests. A context: inside it files are written, the last at its end."""

    def __init__(self, config: CaptureConfig, metrics: Metrics) -> None:
        self._prompts = metrics.captured_prompts
        self._held: list[Held] = []
        self._held_bytes = 0
        self._enough = asyncio.Event()
        self._closing = False
        self.adopt(config)

    async def __aenter__(self) -> Self:
        self._closing = False
        self._task = asyncio.create_task(self._write_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._enough.set()
        await self._task

    def adopt(self, config: CaptureConfig) -> None:
        """Keep prompts by these settings from now on; what waits is written by them too."""
        self._config = config
        self._below = int(config.share * _RID_DRAWS)
        if self._below:
            for result in Result:  # a rate needs a zero to begin with
                self._prompts.labels(result)

    def wants(self, exchange: Exchange) -> bool:
        """Whether the answer is to be kept too."""
        return self._below > 0 and self._config.answers and exchange.translation is None and self._samples(exchange)

    def _samples(self, exchange: Exchange) -> bool:
        """The request's own id is the draw: another part of it than the canary's."""
        return int(exchange.rid[-16:-8], 16) < self._below and exchange.path == _CHAT

    def offer(self, exchange: Exchange, record: RequestRecord, answer: bytes | None) -> None:
        """A request that has been answered."""
        if not self._below or not self._samples(exchange):
            return
        answer = answer if self._config.answers and exchange.translation is None else None
        size = len(exchange.body) + len(answer or b"")
        if len(self._held) >= HELD_PROMPTS or self._held_bytes + size > HELD_BYTES:
            self._prompts.labels(Result.DROPPED).inc()
            return
        self._held.append(Held(exchange.body, answer, exchange.stream, record.task, time.time()))
        self._held_bytes += size
        if len(self._held) >= SEGMENT_PROMPTS or self._held_bytes > HELD_BYTES // 2:
            self._enough.set()

    async def _write_for_ever(self) -> None:
        closing = False
        while not closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(SEGMENT_S):
                    await self._enough.wait()
            self._enough.clear()
            closing = self._closing  # what came until then is written below
            try:
                await self._write()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would keep no prompt any more
                _log.exception("unexpected error in keeping prompts")

    async def _write(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held or self._config.folder is not None:
            for result, times in (await asyncio.to_thread(keep, held, self._config, time.time())).items():
                self._prompts.labels(result).inc(times)


def keep(held: Sequence[Held], config: CaptureConfig, now_s: float) -> Counter[Result]:
    """Write the prompts as one file, and let old files go."""
    if config.folder is None:
        return Counter({Result.DROPPED: len(held)})
    lines, results = _lines(held, config)
    segments = Segments(config.folder, config.max_megabytes * _MEGABYTE, config.max_age_days * _DAY_S)
    try:
        if not lines:
            segments.prune(now_s)
        else:
            results[Result.WRITTEN if segments.write(b"".join(lines), now_s) else Result.DROPPED] += len(lines)
    except OSError as error:
        _log.warning("prompts are not kept", extra={"fields": {"reason": error.strerror, "prompts": len(lines)}})
        results[Result.FAILED] += len(lines)
    return results


def _lines(held: Sequence[Held], config: CaptureConfig) -> tuple[list[bytes], Counter[Result]]:
    """What is to be written, and what became of the rest. Nothing is in it that the redaction has not seen."""
    lines: list[bytes] = []
    results, errors = Counter[Result](), set[str]()
    for one in held:
        try:
            line = _line(one, config)
        except Exception as error:  # noqa: BLE001 - somebody else's function: whatever it raises, nothing is written
            results[Result.FAILED] += 1
            errors.add(type(error).__name__)
        else:
            results[Result.DROPPED] += line is None
            lines += [line] if line else []
    if errors:
        fields = {"errors": sorted(errors), "prompts": results[Result.FAILED]}  # what they say may hold a prompt
        _log.warning("redaction failed, prompts are not kept", extra={"fields": fields})
    return lines, results


def _line(held: Held, config: CaptureConfig) -> bytes | None:
    """A prompt as it is written, None if it cannot be trained on.

    Raises:
        Exception: what the redaction raised, or it gave back something else than text.
    """
    said = conversation(orjson.loads(held.body))
    if said is None:
        return None
    redact = config.redact or str
    messages = [{"role": role, "content": redact(text)} for role, text in (*said, *_answered(held))]
    if not _is_readable(messages):
        return None
    when = datetime.fromtimestamp(held.time_s, UTC).isoformat(timespec="seconds")
    return orjson.dumps({"messages": messages, "task": held.task, "time": when}) + b"\n"


def _answered(held: Held) -> list[tuple[str, str]]:
    """The answer as a message, if it was kept and is one plain text."""
    if held.answer is None:
        return []
    with suppress(Incomparable):
        text = told_to_client(held.answer, stream=held.stream).text
        return [("assistant", text)] if text.strip() else []
    return []


def conversation(document: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Role and text of each message as a draft is trained on it; None where they are more than that."""
    found: list[tuple[str, str]] = []
    for message in document["messages"]:
        role, content = _ROLES.get(message["role"]), message.get("content")
        if role is None or message.get("tool_calls") or content is None:
            return None
        found.append((role, content if isinstance(content, str) else "".join(part["text"] for part in content)))
    return None if document.get("tools") else found


def _is_readable(messages: Sequence[Mapping[str, str]]) -> bool:
    """As `aerie-draft prepare` reads it: no blank text, and the last word before an answer is the user's."""
    asking = [message["role"] for message in messages if message["role"] != "assistant"]
    return all(message["content"].strip() for message in messages) and asking[-1:] == ["user"]
