"""Raw figures: every request as one JSON line, written when it has ended, so that what was measured stays.

Owns the lines. Refuses to own what follows from them (summary.py, window.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import orjson

from loadtest.errors import OutputError
from loadtest.record import Request


class RawFile:
    """An open file of lines; without a path, lines go nowhere."""

    def __init__(self, path: Path | None, file: FileIO | None) -> None:
        self._path, self._file = path, file

    def add(self, request: Request, **labels: str | float) -> None:
        """One request, and what tells it from others.

        Raises:
            OutputError: the line cannot be written; those before it are there, whole.
        """
        if self._file is None:
            return
        line, begin = orjson.dumps(labels | fields(request), option=orjson.OPT_APPEND_NEWLINE), self._file.tell()
        try:
            written = self._file.write(line)
            if written < len(line):  # a disk that fills up takes a part; the rest says why it does not fit
                self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(begin)
            raise OutputError(f"{self._path}: cannot be written ({error.strerror}); what is there stays") from error


@contextmanager
def raw_file(path: Path | None) -> Iterator[RawFile]:
    """A new file, or none.

    Raises:
        OutputError: it cannot be made.
    """
    if path is None:
        yield RawFile(None, None)
        return
    try:
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        yield RawFile(path, file)


def fields(request: Request) -> dict[str, object]:
    """A request's figures: seconds, tokens, and what went wrong."""
    answer, failure = request.answer, request.failure
    figures: dict[str, object] = {"sent_s": request.sent_s, "e2e_s": request.e2e_s}
    if failure is not None:
        return figures | {"failure": failure.kind, "message": failure.message}
    if request.left is not None:
        return figures | {"left_after_tokens": request.left.tokens}
    assert answer is not None
    figures |= {
        "ttft_s": request.ttft_s,
        "tpot_s": request.tpot_s,
        "itl_s": request.itl_s,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
    }
    if answer.acceptance is not None:
        figures |= {
            "correct_drafts": answer.acceptance.correct_drafts,
            "verify_passes": answer.acceptance.verify_passes,
            "accepted_by_position": answer.acceptance.accepted_by_position,
        }
    return figures
