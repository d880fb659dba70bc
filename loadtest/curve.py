"""The baseline curve file, `aerie-baseline-curve/1`: what a calibration leaves and the gateway reads.

Owns the format: its fields, what makes a file invalid, reading and writing it. Refuses to own how the figures are
measured (calibrate.py) and files on disk (files.py).
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from loadtest import files
from loadtest.errors import CurveError

Words = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AcceptanceLength = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Flags(_Part):
    """What else of a runtime's configuration moves the curve, as /server_info has it."""

    dtype: Words
    quantization: str | None
    kv_cache_dtype: Words
    tp_size: Count
    dp_size: Count
    pp_size: Count
    ep_size: Count


class ValidFor(_Part):
    """The runtimes that the curve speaks of."""

    model: Words
    sglang_version: Words
    device: Words
    hardware: Words
    flags: Flags


class Workload(_Part):
    """What was asked."""

    prompts: Words
    prompts_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    max_tokens: Count
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    mean_prompt_tokens: Positive
    rounds: Count


class BaselinePoint(_Part):
    """The baseline at a batch size; the interval is of `tokens_per_s`."""

    batch_size: Count
    tokens_per_s: Positive
    low: Positive
    high: Positive
    step_s: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _require_interval(self.low, self.tokens_per_s, self.high)
        return self


class SpeculativePoint(_Part):
    """Speculation at a batch size; the interval is of `speedup`."""

    batch_size: Count
    tokens_per_s: Positive
    cycle_s: Positive
    acceptance_length: AcceptanceLength
    speedup: Positive
    low: Positive
    high: Positive
    break_even_acceptance_length: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _require_interval(self.low, self.speedup, self.high)
        return self


class Speculative(_Part):
    """What speculation gained over the baseline."""

    algorithm: Words
    tree: Words
    points: Annotated[tuple[SpeculativePoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        _require_ascending(point.batch_size for point in self.points)
        return self


class Curve(_Part):
    """The file."""

    format: Literal["aerie-baseline-curve/1"] = "aerie-baseline-curve/1"
    created: AwareDatetime
    commit: str | None
    argv: tuple[str, ...]
    versions: dict[str, str]
    valid_for: ValidFor
    workload: Workload
    baseline: Annotated[tuple[BaselinePoint, ...], Field(min_length=1)]
    speculative: Speculative | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_ascending(point.batch_size for point in self.baseline)
        known = {point.batch_size for point in self.baseline}
        if self.speculative and not known.issuperset(point.batch_size for point in self.speculative.points):
            raise ValueError("speculative has a batch size that the baseline lacks")
        return self

    def json_text(self) -> str:
        """As it is written."""
        return self.model_dump_json(indent=1) + "\n"


def read(path: Path) -> Curve:
    """A curve file.

    Raises:
        CurveError: unreadable or invalid; the sentence names the field.
    """
    try:
        return Curve.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CurveError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise CurveError(f"{path}: {sentence(error)}") from error


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"not a baseline curve ({f'{place}: ' if place else ''}{first['msg']})"


def write(curve: Curve, path: Path) -> None:
    """Put the file there whole, or leave what was there before.

    Raises:
        OutputError: it cannot be written.
    """
    files.write(curve.json_text(), path)


def _require_interval(low: float, value: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{value} does not lie in its interval, {low} to {high}")


def _require_ascending(batch_sizes: Iterable[int]) -> None:
    if any(after <= before for before, after in pairwise(batch_sizes)):
        raise ValueError("batch sizes are not in ascending order")
