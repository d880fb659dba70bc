"""Result files: strict JSON documents with a format name, read back the way they were written.

Owns what every such file has in common. Refuses to own the fields of any of them (curve.py, comparison.py).
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from loadtest import files
from loadtest.errors import BenchError, DocumentError
from loadtest.stats import Estimate, rounded

Words = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AcceptanceLength = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Part(BaseModel):
    """Of a document; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Interval(Part):
    """A value and its 95% interval."""

    value: Positive
    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        require_interval(self.low, self.value, self.high)
        return self

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """Rounded."""
        return cls(value=rounded(estimate.value), low=rounded(estimate.low), high=rounded(estimate.high))

    def text(self, digits: int = 2) -> str:
        """As it is printed."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class Document(Part):
    """A file, with where it comes from; a subclass names the format and adds its fields."""

    format: str
    created: AwareDatetime
    commit: str | None
    argv: tuple[str, ...]
    versions: dict[str, str]

    def json_text(self) -> str:
        """As it is written."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Put the file there whole, or leave what was there before.

        Raises:
            OutputError: it cannot be written.
        """
        files.write(self.json_text(), path)

    @classmethod
    def read(cls, path: Path, what: str, error: type[BenchError] = DocumentError) -> Self:
        """A file, `what` it should be in words.

        Raises:
            DocumentError, or the error given: unreadable or invalid; the sentence names the field.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as failure:
            raise error(f"{path}: {failure.strerror}") from failure
        except ValidationError as failure:
            raise error(f"{path}: not {what} ({first_fault(failure)})") from failure


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{f'{place}: ' if place else ''}{first['msg']}"


def require_interval(low: float, value: float, high: float) -> None:
    """Refuse an interval that its value lies outside of."""
    if not low <= value <= high:
        raise ValueError(f"{value} does not lie in its interval, {low} to {high}")


def require_ascending(batch_sizes: Iterable[int]) -> None:
    """Refuse batch sizes that come twice or not in order."""
    if any(after <= before for before, after in pairwise(batch_sizes)):
        raise ValueError("batch sizes are not in ascending order")
