"""Files: results that are there whole, or what was there before; lines with their numbers.

Refuses to own what is in a file.
"""

import os
from pathlib import Path

from loadtest.errors import OutputError


def require_writable(path: Path) -> None:
    """Find out before anything is measured whether a file can be put there.

    Raises:
        OutputError: it cannot.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: not a file")
    temporary = _temporary(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def write(content: str | bytes, path: Path) -> None:
    """Put the file there whole, or leave what was there before.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); nothing was left there") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """If it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no folder can be made there ({error.strerror})") from error


def numbered_lines(data: bytes) -> list[tuple[int, bytes]]:
    """Those with something in them, from 1."""
    return [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
