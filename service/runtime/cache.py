"""Where what this machine made for itself is kept: the converted model, the compiled kernels, logs.

Everything in it can be made again. A thing appears whole or not at all: it is made beside its place, then renamed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """AERIE_CACHE_DIR, or `aerie` in the user's cache."""
    named = os.environ.get("AERIE_CACHE_DIR")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aerie"


@contextmanager
def making(place: Path) -> Iterator[Path | None]:
    """Make a directory whole or not at all, once, however many processes try.

    Yields a fresh directory to fill, which becomes `place` when the block ends without an exception, or None when
    `place` is there already. The folder itself is locked (flock), so the lock goes with the process
    and no lock file is left behind.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.parent / f".{place.name}.unfinished"
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if place.is_dir():
            yield None
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(folder)
