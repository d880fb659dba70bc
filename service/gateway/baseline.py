"""What a pool's runtimes would do without speculation: the calibrated curve, and whether it is about these runtimes.

Owns the file's shape as `aerie-bench calibrate` writes it (docs/calibrate.md), reading between its points, and the
check against what a runtime says of itself. Refuses to own measuring (loadtest/) and counting (batches.py).
"""

import json
import logging
from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.gateway.batches import Baseline
from service.gateway.metrics import Metrics
from service.gateway.reload import LIMIT_BYTES, InvalidFiles
from service.gateway.sglang import RuntimeInfo

_log = logging.getLogger("aerie.calibration")

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_BatchSize = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    """Of the file; what a later version adds to it does not disturb."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ValidFor(_Part):
    """What the curve is about."""

    model: str
    sglang_version: str
    device: str
    hardware: str
    flags: Mapping[str, Any]


class BaselinePoint(_Part):
    """Of the baseline, at a batch size."""

    batch_size: _BatchSize
    tokens_per_s: _Positive


class SpeculativePoint(_Part):
    """Of the runtime that speculated beside it."""

    batch_size: _BatchSize
    break_even_acceptance_length: _Positive


class Speculative(_Part):
    """What was measured beside the baseline."""

    tree: str
    points: tuple[SpeculativePoint, ...]


class BaselineCurve(_Part):
    """The whole file."""

    format: Literal["aerie-baseline-curve/1"]
    created: datetime
    valid_for: ValidFor
    baseline: Annotated[tuple[BaselinePoint, ...], Field(min_length=1)]
    speculative: Speculative | None = None

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        sizes = [point.batch_size for point in self.baseline]
        if sizes != sorted(set(sizes)):
            raise ValueError("baseline: batch sizes must ascend")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file.

        Raises:
            InvalidFiles: it cannot be used.
        """
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(LIMIT_BYTES))
        except OSError as error:
            raise InvalidFiles(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InvalidFiles(f"{path}: {where}: {first['msg']}; make it with aerie-bench calibrate") from error

    def tokens_per_s(self, batch_size: int) -> float | None:
        """The baseline's, of the whole batch: straight lines between the points; beyond the last one it is not known.

        Below the first point throughput is proportional to the batch size, as where memory bandwidth bounds a step.
        """
        index = bisect_left(self.baseline, batch_size, key=lambda point: point.batch_size)
        if index == len(self.baseline):
            return None
        above = self.baseline[index]
        if index == 0:
            return above.tokens_per_s * batch_size / above.batch_size
        below = self.baseline[index - 1]
        part = (batch_size - below.batch_size) / (above.batch_size - below.batch_size)
        return below.tokens_per_s + part * (above.tokens_per_s - below.tokens_per_s)

    def break_even(self, info: RuntimeInfo) -> dict[int, float]:
        """By batch size, the tau above which this runtime's tree pays; nothing if another tree was measured."""
        if self.speculative is None or self.speculative.tree != info.tree:
            return {}
        return {point.batch_size: point.break_even_acceptance_length for point in self.speculative.points}

    def misfit(self, info: RuntimeInfo, hardware: str | None) -> str | None:
        """Why this curve says nothing of a runtime, None where it does; `hardware` is the operator's word for it."""
        theirs = self.valid_for
        pairs: dict[str, tuple[Any, Any]] = {
            "SGLang": (theirs.sglang_version, info.facts.version),
            "device": (theirs.device, info.facts.device),
            "hardware": (theirs.hardware, hardware or theirs.hardware),
        }
        pairs |= {f"flag {name}": (value, info.flags.get(name, "not told")) for name, value in theirs.flags.items()}
        differing = [f"{name} {_shown(was)}, here {_shown(now)}" for name, (was, now) in pairs.items() if was != now]
        if theirs.model not in info.models:
            differing.insert(0, f"model {theirs.model}, here {', '.join(info.models)}")
        return f"The calibration is of {'; '.join(differing)}: calibrate again." if differing else None


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON of the file
    return value if isinstance(value, str) else json.dumps(value)


class Calibration:
    """A pool's curve, if it has one, and what it says of the pool's replicas."""

    def __init__(self, pool: str, path: Path | None, hardware: str | None, metrics: Metrics) -> None:
        """Read it.

        Raises:
            InvalidFiles: it cannot be used.
        """
        self._pool = pool
        self._hardware = hardware
        self._metrics = metrics
        self._curve = BaselineCurve.read(path) if path else None
        self._misfits: dict[str, str] = {}
        self._break_even: dict[str, dict[int, float]] = {}  # by replica

    @property
    def problem(self) -> str | None:
        """Why it is not used for some replica, for operators; None where it is for all that are known."""
        return next(iter(self._misfits.values()), None)

    def show(self) -> None:
        """In the metrics, from now on; nothing of an older one stays."""
        self.hide()
        if self._curve is not None:
            self._metrics.calibration_made.labels(self._pool).set(self._curve.created.timestamp())
            self._metrics.calibration_valid.labels(self._pool).set(1)

    def hide(self) -> None:
        """No longer."""
        for gauge in (self._metrics.calibration_made, self._metrics.calibration_valid, self._metrics.break_even):
            gauge.remove_by_labels({"pool": self._pool})

    def judge(self, replica: str, info: RuntimeInfo) -> Baseline | None:
        """The baseline of a replica that has described itself, unless the curve is about something else."""
        if self._curve is None:
            return None
        misfit = self._curve.misfit(info, self._hardware)
        self._drop(replica)
        if misfit is None:
            self._break_even[replica] = self._curve.break_even(info)
        else:
            self._misfits[replica] = misfit
            _log.warning(
                "calibration not used", extra={"fields": {"pool": self._pool, "replica": replica, "reason": misfit}}
            )
        self._tell()
        return None if misfit else self._curve.tokens_per_s

    def forget(self, replica: str) -> None:
        """It has left."""
        if self._curve is not None:
            self._drop(replica)
            self._tell()

    def _drop(self, replica: str) -> None:
        self._misfits.pop(replica, None)
        self._break_even.pop(replica, None)

    def _tell(self) -> None:
        self._metrics.calibration_valid.labels(self._pool).set(not self._misfits)
        self._metrics.break_even.remove_by_labels({"pool": self._pool})
        for points in self._break_even.values():
            for batch_size, tau in points.items():
                self._metrics.break_even.labels(self._pool, str(batch_size)).set(tau)
