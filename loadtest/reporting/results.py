"""Any result file, read by the format that it names.

Owns which formats a report knows. Refuses to own them (comparison.py, curve.py, load_report.py, paper/results.py).
"""

from pathlib import Path

import orjson

from loadtest.comparison import Comparison
from loadtest.curve import Curve
from loadtest.errors import DocumentError
from loadtest.load_report import LoadReport
from loadtest.paper.results import Paper

Result = Comparison | Curve | LoadReport | Paper
_FORMATS: dict[str, tuple[type[Comparison] | type[Curve] | type[LoadReport] | type[Paper], str]] = {
    "aerie-comparison/1": (Comparison, "a comparison"),
    "aerie-baseline-curve/1": (Curve, "a baseline curve"),
    "aerie-load/1": (LoadReport, "a load report"),
    "aerie-paper/1": (Paper, "a file of `aerie-bench paper`"),
}


def read(path: Path) -> Result:
    """A result.

    Raises:
        DocumentError: unreadable, of an unknown format, or invalid.
    """
    kind, what = _FORMATS.get(_format(path), (None, ""))
    if kind is None:
        raise DocumentError(f"{path}: no result file: its `format` is none of {', '.join(_FORMATS)}")
    return kind.read(path, what)


def _format(path: Path) -> str:
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    except orjson.JSONDecodeError:
        return ""
    return str(found.get("format")) if isinstance(found, dict) else ""
