"""A folder of JSONL files, each written whole, bounded in size and age.

Owns the files' names, modes and ends. Refuses to own what is in them (capture.py) and threads: everything here blocks.
Several processes may share a folder: names never collide, and a file that another one has deleted is not missed.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PREFIX = "prompts-"
ABANDONED_S = 3600.0
"""What was begun and not finished by then never will be."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The folder and its bounds."""

    folder: Path
    max_bytes: float
    max_age_s: float

    def write(self, data: bytes, now_s: float) -> bool:
        """A file of its own; older ones make room. False where it alone is larger than all may be.

        Raises:
            OSError: the disk or the folder does not take it.
        """
        if len(data) > self.max_bytes:
            return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.prune(now_s, room_bytes=len(data))
        name = f"{PREFIX}{datetime.fromtimestamp(now_s, UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}-{secrets.token_hex(4)}"
        unfinished = self.folder / f".{name}.tmp"
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / f"{name}.jsonl")
        return True

    def prune(self, now_s: float, room_bytes: int = 0) -> None:
        """Delete what is too old, and the oldest of what is too much."""
        for _, written_s, path in _found(self.folder, f".{PREFIX}*.tmp"):
            if now_s - written_s > ABANDONED_S:
                path.unlink(missing_ok=True)
        files = sorted(_found(self.folder, f"{PREFIX}*.jsonl"), key=lambda file: (file[1], file[2].name))
        total = room_bytes + sum(size for size, _, _ in files)
        for size, written_s, path in files:
            if total > self.max_bytes or now_s - written_s > self.max_age_s:
                path.unlink(missing_ok=True)
                total -= size


def _found(folder: Path, pattern: str) -> Iterator[tuple[int, float, Path]]:
    """Size, time and path of each."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            status = path.stat()
            yield status.st_size, status.st_mtime, path
