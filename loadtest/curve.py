"""The baseline curve file, `aerie-baseline-curve/1`: what a calibration leaves and the gateway reads.

Owns the fields and what makes a file invalid. Refuses to own how the figures are measured (calibrate.py) and what
result files have in common (document.py).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loadtest.document import (
    AcceptanceLength,
    Count,
    Document,
    NotNegative,
    Part,
    Positive,
    Sha256,
    Words,
    require_ascending,
    require_interval,
)
from loadtest.errors import CurveError


class Flags(Part):
    """What else of a runtime's configuration moves the curve, as /server_info has it."""

    dtype: Words
    quantization: str | None
    kv_cache_dtype: Words
    tp_size: Count
    dp_size: Count
    pp_size: Count
    ep_size: Count


class ValidFor(Part):
    """The runtimes that the curve speaks of."""

    model: Words
    sglang_version: Words
    device: Words
    hardware: Words
    flags: Flags


class Workload(Part):
    """What was asked."""

    prompts: Words
    prompts_sha256: Sha256
    max_tokens: Count
    temperature: NotNegative
    mean_prompt_tokens: Positive
    rounds: Count


class BaselinePoint(Part):
    """The baseline at a batch size; the interval is of `tokens_per_s`."""

    batch_size: Count
    tokens_per_s: Positive
    low: Positive
    high: Positive
    step_s: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        require_interval(self.low, self.tokens_per_s, self.high)
        return self


class SpeculativePoint(Part):
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
        require_interval(self.low, self.speedup, self.high)
        return self


class Speculative(Part):
    """What speculation gained over the baseline."""

    algorithm: Words
    tree: Words
    points: Annotated[tuple[SpeculativePoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        require_ascending(point.batch_size for point in self.points)
        return self


class Curve(Document):
    """The file."""

    format: Literal["aerie-baseline-curve/1"] = "aerie-baseline-curve/1"
    valid_for: ValidFor
    workload: Workload
    baseline: Annotated[tuple[BaselinePoint, ...], Field(min_length=1)]
    speculative: Speculative | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_ascending(point.batch_size for point in self.baseline)
        known = {point.batch_size for point in self.baseline}
        if self.speculative and not known.issuperset(point.batch_size for point in self.speculative.points):
            raise ValueError("speculative has a batch size that the baseline lacks")
        return self


def read(path: Path) -> Curve:
    """A curve file.

    Raises:
        CurveError: unreadable or invalid; the sentence names the field.
    """
    return Curve.read(path, "a baseline curve", CurveError)
