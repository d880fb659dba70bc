"""The file in which SGLang wants an adaptive chain's lengths (`--speculative-adaptive-config`).

It lies in the cache under a name made from what it says, so that a command line can name it before it is written.
SGLang 0.5.23: srt/speculative/adaptive_spec_params.py.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.runtime.cache import cache_dir, making


def content(lengths: Mapping[int, Sequence[int]]) -> str:
    """JSON: from each batch size on, the chain lengths to choose among."""
    return json.dumps({str(size): {"candidate_steps": list(lengths[size])} for size in sorted(lengths)})


def path(lengths: Mapping[int, Sequence[int]]) -> Path:
    """Where `write` puts them."""
    return cache_dir() / "adaptive" / hashlib.sha256(content(lengths).encode()).hexdigest()[:16] / "lengths.json"


def write(lengths: Mapping[int, Sequence[int]]) -> None:
    """Make the file, unless it is there.

    Raises:
        OSError: the cache cannot be written.
    """
    place = path(lengths)
    with making(place.parent) as unfinished:
        if unfinished is not None:
            (unfinished / place.name).write_text(content(lengths))
