"""Prompts to be answered: read from JSONL or from a `datasets` dataset, strictly, each with a key that stays its own.

A record is `{"prompt": "..."}`, `{"turns": ["...", ...]}` (the first is asked), `{"messages": [...]}` (chat format) or
`{"conversations": [...]}` (ShareGPT's), with an optional "id"; without one the key is a hash of the messages. Answers
that a conversation ends with are dropped: the target answers anew.

Owns reading them, and evaluation files, which are of the same form. Refuses to own templates, tokens, and which prompts
are answered.
"""

import hashlib
import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draft_models.data import read_records
from draft_models.errors import DataError, first_line
from draft_models.provenance import file_sha256
from draft_models.template import Message

ROLES = ("system", "user", "assistant")
SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant"}
"""Its roles."""


@dataclass(frozen=True)
class Conversation:
    """A conversation that waits for its answer."""

    key: str
    messages: tuple[Message, ...]
    place: str
    """FILE:LINE, for messages."""

    @property
    def text(self) -> str:
        """All that its user says."""
        return "\n".join(_said(self.messages))


@dataclass(frozen=True)
class EvaluationPrompt:
    """What an evaluation asks, and the set it belongs to (its file's name)."""

    place: str
    """FILE:LINE."""
    task: str
    messages: tuple[Message, ...]
    turns: tuple[str, ...]
    """All that its user says, turns that are not asked included."""


@dataclass(frozen=True)
class Source:
    """A file or a dataset of conversations, and the hash of what it held."""

    name: str
    sha256: str
    conversations: tuple[Conversation, ...]


def read_source(name: str) -> Source:
    """A JSONL file, or else a `datasets` dataset: NAME for its training split, NAME:SPLIT for another.

    Raises:
        DataError: a broken line, which is named; no such file or dataset; `datasets` is not installed.
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".jsonl", ".json"):
        records = list(read_records(path))
        sha256 = file_sha256(path)
    else:
        records = list(enumerate(_dataset(name), start=1))
        sha256 = _hash([record for _, record in records])
    return Source(name, sha256, tuple(_conversation(record, f"{name}:{line}") for line, record in records))


def distinct(sources: Iterable[Source]) -> list[Conversation]:
    """All conversations once: one that is repeated word for word would be answered alike.

    Raises:
        DataError: two different conversations have the same id.
    """
    by_text: dict[str, Conversation] = {}
    for source in sources:
        for conversation in source.conversations:
            by_text.setdefault(_hash(conversation.messages), conversation)
    by_key: dict[str, Conversation] = {}
    for conversation in by_text.values():
        other = by_key.setdefault(conversation.key, conversation)
        if other is not conversation:
            raise DataError(
                f"{conversation.place}: id {conversation.key!r} is that of {other.place} too; "
                "give each its own, or none to either"
            )
    return list(by_text.values())


def read_evaluation(path: Path) -> list[EvaluationPrompt]:
    """An evaluation file's prompts.

    Raises:
        DataError: as for `read_source`.
    """
    prompts = []
    for line, record in read_records(path):
        place, later = f"{path}:{line}", record["turns"][1:] if _texts(record.get("turns")) else []
        messages = _messages(record, place)
        prompts.append(EvaluationPrompt(place, path.stem, messages, (*_said(messages), *later)))
    return prompts


def _conversation(record: dict[str, Any], place: str) -> Conversation:
    messages = _messages(record, place)
    key = record.get("id")
    if key is not None and not isinstance(key, str | int):
        raise DataError(f"{place}: id {key!r} is neither text nor a number")
    return Conversation(str(_hash(messages)[:16] if key is None else key), messages, place)


def _messages(record: dict[str, Any], place: str) -> tuple[Message, ...]:
    asked, chat = record.get("turns") or [record.get("prompt")], record.get("messages")
    if chat is None:
        chat = _of_sharegpt(record.get("conversations"))
    if chat is None:
        if not _texts(asked):
            raise DataError(f"{place}: no prompt; a line has a text prompt, or turns, messages or conversations")
        return ({"role": "user", "content": asked[0]},)
    if not isinstance(chat, list) or not all(map(_is_message, chat)):
        raise DataError(
            f'{place}: messages is no list of {{"role": "{"|".join(ROLES)}", "content": "..."}}, '
            f'nor conversations of {{"from": "{"|".join(SHAREGPT)}", "value": "..."}}'
        )
    users = [index for index, message in enumerate(chat) if message["role"] == "user"]
    if not users or any(message["role"] != "assistant" for message in chat[users[-1] + 1 :]):
        raise DataError(f"{place}: the last message that is not an assistant's is not a user's")
    return tuple({"role": message["role"], "content": message["content"]} for message in chat[: users[-1] + 1])


def _of_sharegpt(found: object) -> object:
    """As messages; what is of another form stays, to be refused as such."""
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        return found
    return [{"role": SHAREGPT.get(str(turn.get("from"))), "content": turn.get("value")} for turn in found]


def _said(messages: Iterable[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ROLES and _texts([message.get("content")])


def _texts(found: object) -> bool:
    return isinstance(found, list) and bool(found) and all(isinstance(text, str) and text.strip() for text in found)


def _dataset(name: str) -> Iterable[dict[str, Any]]:
    repository, _, split = name.partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"{name}: no such file, and to read it as a dataset: pip install datasets") from error
    try:
        found: Iterable[dict[str, Any]] = datasets.load_dataset(repository, split=split or "train")
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: neither a file nor a dataset: {first_line(error)}") from error
    return found


def _hash(content: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
