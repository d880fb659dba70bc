"""The file in which SGLang wants an adaptive chain's lengths (`--speculative-adaptive-config`).

It lies among the temporary files, which a container with a read-only root can write too, under a name made from what it
says: a command line can name it before it is written, and two runtimes may share it.
SGLang 0.5.23: srt/speculative/adaptive_spec_params.py.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def content(lengths: Mapping[int, Sequence[int]]) -> str:
    """JSON: from each batch size on, the chain lengths to choose among."""
    return json.dumps({str(size): {"candidate_steps": list(lengths[size])} for size in sorted(lengths)})


def path(lengths: Mapping[int, Sequence[int]]) -> Path:
    """Where `write` puts them."""
    name = hashlib.sha256(content(lengths).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"aerie-adaptive-{name}.json"


def write(lengths: Mapping[int, Sequence[int]]) -> None:
    """Make the file, whole or not at all, unless it is there.

    Raises:
        OSError: there is no place for temporary files.
    """
    place, text = path(lengths), content(lengths)
    if place.is_file() and place.read_text() == text:
        return
    with tempfile.NamedTemporaryFile("w", dir=place.parent, prefix=place.stem, delete=False) as unfinished:
        unfinished.write(text)
    Path(unfinished.name).chmod(0o644)
    Path(unfinished.name).replace(place)
