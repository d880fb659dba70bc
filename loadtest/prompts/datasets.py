"""Public sets of prompts: fetched from where they are, held against a SHA-256, and made into our JSON lines.

Owns the catalog (`datasets.yaml`) and the formats of their records. Refuses to own what is asked of a load (source.py).
Nothing of these sets is kept in this repository: their licences are their own, and each is named.
"""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson
import yaml

from loadtest.document import Part, Sha256, Words
from loadtest.errors import PromptsError
from loadtest.files import numbered_lines

LIMIT_BYTES = 256 * 2**20
_TIMEOUT_S = 60
_GZIP = b"\x1f\x8b"
_CODE = "Complete the code I provided.\n\n"
"""Before a prompt of HumanEval, as EAGLE's evaluation has it (eagle/data/humaneval)."""

Rows = Literal["questions", "code", "math", "instructions"]
Record = dict[str, Any]


class Dataset(Part):
    """One of the catalog."""

    url: Words
    """At a fixed commit."""
    sha256: Sha256
    """Of the file as it is there."""
    rows: Rows
    licence: Words


def catalog() -> dict[str, Dataset]:
    """By name."""
    listed = yaml.safe_load(resources.files("loadtest.prompts").joinpath("datasets.yaml").read_bytes())
    return {name: Dataset.model_validate(fields) for name, fields in listed.items()}


def prompt_lines(name: str, dataset: Dataset, source: str | None, count: int | None) -> list[bytes]:
    """The set as our JSON lines, the first so many of it; from elsewhere if a source is given: a URL or a file.

    Raises:
        PromptsError: it cannot be had, or is not the file that it should be.
    """
    source = source or dataset.url
    data = _content(source)
    found = hashlib.sha256(data).hexdigest()
    if found != dataset.sha256:
        raise PromptsError(f"{source}: not the file it should be (SHA-256 {found}, not {dataset.sha256})")
    try:
        records = list(_records(gzip.decompress(data) if data.startswith(_GZIP) else data))[:count]
        return [_line(name, number, record, _CONVERT[dataset.rows]) for number, record in enumerate(records)]
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise PromptsError(f"{source}: not records of {name} ({type(error).__name__}: {error})") from error


def _content(source: str) -> bytes:
    try:
        return _downloaded(source) if "://" in source else Path(source).read_bytes()
    except httpx.HTTPStatusError as error:
        raise PromptsError(f"{source}: status {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = " ".join(str(error).split())
        raise PromptsError(f"{source}: cannot be had ({words}); get it elsewhere and name it: --source FILE") from error
    except OSError as error:
        raise PromptsError(f"{source}: {error.strerror}") from error


def _downloaded(url: str) -> bytes:
    data = bytearray()
    with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_S) as response:
        response.raise_for_status()
        for part in response.iter_bytes():
            data += part
            if len(data) > LIMIT_BYTES:
                raise PromptsError(f"{url}: larger than {LIMIT_BYTES // 2**20} MiB")
    return bytes(data)


def _records(data: bytes) -> Iterator[Record]:
    """Of a JSON list, or of JSON lines."""
    if data.lstrip().startswith(b"["):
        yield from orjson.loads(data)
        return
    for _, line in numbered_lines(data):
        yield orjson.loads(line)


def _line(name: str, number: int, record: Record, convert: Callable[[Record], Record]) -> bytes:
    return orjson.dumps({"id": f"{name}-{number}", "task": name, **convert(record)})


def _question(record: Record) -> Record:
    """FastChat's: {"question_id", "category", "turns"}."""
    category, number = record["category"], record["question_id"]
    return {"id": f"{category}-{number}", "category": category, "turns": record["turns"]}


def _code(record: Record) -> Record:
    """HumanEval's: {"task_id", "prompt", ...}."""
    return {"id": record["task_id"], "turns": [_CODE + record["prompt"]]}


def _math(record: Record) -> Record:
    """GSM8K's: {"question", "answer"}."""
    return {"turns": [record["question"]]}


def _instruction(record: Record) -> Record:
    """Alpaca's: {"instruction", "input", "output"}; the input is empty in many."""
    return {"turns": [f"{record['instruction']}\n\n{record['input']}".strip()]}


_CONVERT: dict[Rows, Callable[[Record], Record]] = {
    "questions": _question,
    "code": _code,
    "math": _math,
    "instructions": _instruction,
}
