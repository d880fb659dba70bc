"""From the bytes of a key file to a KeyRing, or to one error that says where and why.

Owns the file's shape. Its errors never show a key or a hash. Refuses to own YAML (strict_yaml.py) and reading and
watching the file (reload.py).

    keys:
      - id: alice
        sha256: "9f86d081..."
        limits: {requests_per_s: 5, tokens_per_min: 100000, concurrent: 8}
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Annotated

from pydantic import Field

from service.gateway import strict_yaml
from service.gateway.keys import KeyRing, StoredKey
from service.gateway.strict_yaml import FileError, Section

MAX_CLASSES = 16
"""Each one is a label's value in the metrics."""


class _KeyFile(Section, hide_input_in_errors=True):
    keys: Annotated[list[StoredKey], Field(min_length=1)]


def parse(data: bytes, today: Callable[[], date] | None = None) -> KeyRing:
    """All keys of a file.

    Raises:
        FileError: anything in it is wrong; then none of it counts.
    """
    keys = strict_yaml.parse(data, _KeyFile).keys
    if sentences := [*_repeated(keys), *_too_many_classes(keys)]:
        raise FileError(sentences)
    return KeyRing(keys) if today is None else KeyRing(keys, today)


def _repeated(keys: Sequence[StoredKey]) -> Iterator[str]:
    ids: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for index, key in enumerate(keys):
        if (first := ids.setdefault(key.id, index)) != index:
            yield f"keys[{index}].id: the same as keys[{first}].id"
        if (first := hashes.setdefault(key.sha256, index)) != index:
            yield f"keys[{index}].sha256: the same as keys[{first}].sha256"


def _too_many_classes(keys: Sequence[StoredKey]) -> Iterator[str]:
    classes = Counter(key.tenant_class for key in keys)
    if len(classes) > MAX_CLASSES:
        yield f"keys: {len(classes)} different classes, at most {MAX_CLASSES} may be used"
