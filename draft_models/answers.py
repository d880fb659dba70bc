"""The file of answers: JSONL that only ever grows by whole lines, and beside it OUT.meta.json, which says whose it is.

A killed run may leave a torn last line: it is cut when the file is opened again. A full disk leaves none: what was
written of the line is taken back. The sidecar holds the run's identity (target, template, settings, hashes of the
prompts); a file of another identity is never touched. It also holds the keys that there will never be a row for.

Owns these two files, and one writer at a time. Refuses to own what is in a row.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from draft_models.checkpoint import write_text_whole
from draft_models.data import read_records
from draft_models.errors import CheckpointError, ConfigError
from draft_models.provenance import provenance

Identity = dict[str, Any]


def sidecar(path: Path) -> Path:
    """Where the identity of a file of answers is kept."""
    return path.with_name(f"{path.name}.meta.json")


def require_own(path: Path, target: str, template_sha256: str) -> None:
    """Answers to train on have to be the target's own, under its chat template, where a sidecar says whose they are.

    Raises:
        ConfigError: they are not.
    """
    if not sidecar(path).exists():
        return
    identity = _identity_of(path)
    if identity.get("chat_template_sha256") != template_sha256:
        raise ConfigError(f"{path}: written under another chat template than the target's; prepare it again")
    if identity.get("target") != target:
        raise ConfigError(f"{path}: another target's answers; prepare it again with this one")


class AnswerFile:
    """Open for appending; `answered` are the keys of the rows that are there, `given_up` those that will have none."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Raises ConfigError: another identity, or another writer; CheckpointError: it cannot be written."""
        self.path, self.meta = path, sidecar(path)
        self.given_up: set[str] = set()
        self._file = _open(path)
        try:
            self._claim(identity)
            _cut_torn_line(self._file)
            empty = os.fstat(self._file).st_size == 0
            self.answered = set() if empty else {record.get("prompt_id") for _, record in read_records(path)}
        except BaseException:
            os.close(self._file)
            raise

    def append(self, row: dict[str, Any]) -> None:
        """One line, whole or not at all.

        Raises:
            CheckpointError: the disk is full; the rows before are whole.
        """
        line = (json.dumps(row, separators=(",", ":")) + "\n").encode()
        before = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise CheckpointError(
                f"{self.path} could not be written ({error}); its {len(self.answered)} rows are whole"
            ) from error
        self.answered.add(row["prompt_id"])

    def give_up(self, key: str) -> None:
        """Remember not to try again.

        Raises:
            CheckpointError: the disk is full.
        """
        self.given_up.add(key)
        meta = _read_meta(self.path) | {"given_up": sorted(self.given_up)}
        write_text_whole(self.meta, json.dumps(meta, indent=2) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _claim(self, identity: Identity) -> None:
        """Go on with a file of this identity, or begin one."""
        identity = json.loads(json.dumps(identity))
        if os.fstat(self._file).st_size > 0:
            differences = _differences(_identity_of(self.path), identity)
            if differences:
                raise ConfigError(
                    f"{self.path}: holds answers of another run ({'; '.join(differences)}); another --out starts anew"
                )
            self.given_up = set(_read_meta(self.path).get("given_up", ()))
            return
        write_text_whole(self.meta, json.dumps({"identity": identity, "provenance": provenance()}, indent=2) + "\n")


def _identity_of(path: Path) -> Identity:
    identity: Identity = _read_meta(path)["identity"]
    return identity


def _read_meta(path: Path) -> dict[str, Any]:
    meta = sidecar(path)
    try:
        found = json.loads(meta.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        raise ConfigError(
            f"{path}: exists, but {meta.name} does not say whose it is; bring that file back, or name another --out"
        )
    return found


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ConfigError(f"{path}: another process is writing it; wait for it, or name another --out") from error
    return file


def _cut_torn_line(file: int) -> None:
    """Up to the last line end."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)


def _differences(was: Identity, now: Identity) -> list[str]:
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return [f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}" for name in names]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
