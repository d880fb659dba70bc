"""Training rows: the target's own answers as token ids, read strictly, split and batched reproducibly.

A row is `{"ids": [...], "response_start": n, "temperature": t, "prompt_id": "..."}`: ids hold prompt and response, the
response begins at index n.

Owns files of rows and which rows make a batch, as pure functions of the seed. Refuses to own prompts (prompts.py) and
tensors.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draft_models.errors import DataError

SORTED_TOGETHER = 256
"""Rows sorted by length before they are cut into batches, at least: little padding, and still a shuffle."""
TOKENS_A_ROW = 8
"""So many tokens of a batch make it one row more: what is left over of rows sorted together is a small batch."""
SHAPES = 512
"""Rows are padded to multiples of a batch's 512th: large batches are of few shapes, each of which a GPU plans once."""


@dataclass(frozen=True)
class Row:
    """One conversation the target wrote the end of."""

    ids: tuple[int, ...]
    response_start: int
    temperature: float
    key: str
    """What decides whether the row is held out: rows of one prompt share it."""

    def __len__(self) -> int:
        return len(self.ids)


def read_rows(paths: Sequence[Path], vocab_size: int, max_length: int) -> list[Row]:
    """All rows of the files.

    Raises:
        DataError: a file cannot be read, holds nothing, or has a broken line, which is named.
    """
    lines = ((path, line, record) for path in paths for line, record in read_records(path))
    return [_row(record, f"{path}:{line}", vocab_size, max_length) for path, line, record in lines]


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not empty.

    Raises:
        DataError: the file cannot be read, holds nothing, or has a broken line, which is named.
    """
    empty = True
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    yield number, _object(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    if empty:
        raise DataError(f"{path}: the file is empty")


def hold_out(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows): whole prompts, chosen by their hash and nothing else.

    A larger data set holds other prompts out: two runs on different data are compared on prompts neither trained on.
    Held-out rows are greedy answers: measured on them, acceptance is that of greedy decoding.
    """
    keys = sorted({row.key for row in rows if row.temperature == 0}, key=key_digest)[:count]
    chosen = set(keys)
    kept = [row for row in rows if row.key not in chosen]
    held = {row.key: row for row in rows if row.key in chosen and row.temperature == 0}
    return kept, [held[key] for key in keys]


def batches(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of row indices, at most `batch_tokens` each with padding: a function of its arguments."""
    # the seed is a string, so that (1, 23) and (12, 3) differ; random.Random hashes it the same way in every process
    shuffle = random.Random(f"{seed}/{epoch}")  # noqa: S311  not cryptography
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    widths = [padded_length(length, batch_tokens) for length in lengths]
    found: list[list[int]] = []
    group = max(SORTED_TOGETHER, batch_tokens // TOKENS_A_ROW)
    for start in range(0, len(order), group):
        together = sorted(order[start : start + group], key=lambda index: lengths[index])
        found += _cut(together, widths, batch_tokens)
    shuffle.shuffle(found)
    return found


def padded_length(longest: int, batch_tokens: int) -> int:
    """How long the rows of a batch are with padding."""
    step = max(1, batch_tokens // SHAPES)
    return -(-longest // step) * step


def digest(rows: Sequence[Row]) -> str:
    """What the data are, for provenance and for resuming: a hash of every id."""
    total = hashlib.sha256()
    for row in rows:
        total.update(f"{row.response_start}:{','.join(map(str, row.ids))};".encode())
    return total.hexdigest()[:16]


def _cut(order: list[int], widths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Consecutive rows of rising length, as many as fit."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * widths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: a line is a JSON object, not {type(record).__name__}")
    return record


def _row(record: dict[str, Any], place: str, vocab_size: int, max_length: int) -> Row:
    ids, start = record.get("ids"), record.get("response_start")
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise DataError(f"{place}: ids is no list of token ids")
    if not isinstance(start, int) or not 1 <= start < len(ids):
        raise DataError(f"{place}: response_start {start} is not within 1..{len(ids) - 1}")
    if not all(0 <= token < vocab_size for token in ids):
        raise DataError(f"{place}: a token id is outside the target's vocabulary of {vocab_size}")
    if len(ids) > max_length:
        raise DataError(f"{place}: {len(ids)} tokens are longer than the target's context of {max_length}")
    temperature = record.get("temperature", 0.0)
    if not isinstance(temperature, int | float):
        raise DataError(f"{place}: temperature {temperature!r} is no number")
    # a row without a prompt id: its prompt is its key
    key = record.get("prompt_id") or key_digest(",".join(map(str, ids[:start])))
    return Row(tuple(ids), start, float(temperature), str(key))


def key_digest(text: str) -> str:
    """What orders prompts by chance, and always the same."""
    return hashlib.sha256(text.encode()).hexdigest()
