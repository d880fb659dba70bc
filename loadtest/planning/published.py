"""What others published, and what the model says of it.

Owns reading `published.yaml` and the model's value for a point. Refuses to own the model (roofline.py) and fitting
(fit.py).
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from loadtest.document import Positive
from loadtest.planning import geometry, hardware
from loadtest.planning.roofline import Constants, Machine
from loadtest.tree import Tree


class Point(BaseModel):
    """One published figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    use: Literal["fit", "test"]
    gpu: str
    tp: int = Field(1, ge=1)
    model: str
    precision: Literal["bf16", "fp8"] = "bf16"
    batch: Positive
    context: Positive
    tree: str | None = None
    tau: float | None = Field(None, ge=1)
    draft_vocab: int | None = None
    quantity: Literal["tokens_per_s", "speedup", "step_ms", "cycle_ms"]
    value: Positive
    assumed: str = ""

    def predicted(self, constants: Constants) -> float:
        """The model's value, in the point's own quantity."""
        machine = Machine(_target(self.model, self.precision), _gpu(self.gpu), self.tp, self.draft_vocab, constants)
        step_s = machine.step_s(self.batch, self.context)
        if self.quantity == "step_ms":
            return 1000 * step_s
        cycle_s = machine.cycle_s(Tree.parse(self.tree), self.batch, self.context) if self.tree else step_s
        if self.quantity == "cycle_ms":
            return 1000 * cycle_s
        tokens_per_s = self.batch * (self.tau or 1) / cycle_s
        return tokens_per_s if self.quantity == "tokens_per_s" else tokens_per_s * step_s / self.batch

    def error(self, constants: Constants) -> float:
        """Of the prediction, as a share of what was published."""
        return self.predicted(constants) / self.value - 1


@dataclass(frozen=True)
class Published:
    """The file."""

    sources: dict[str, str]
    points: tuple[Point, ...]


@cache
def read() -> Published:
    """All points."""
    content = yaml.safe_load(resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
    return Published(content["sources"], tuple(map(Point.model_validate, content["points"])))


_target = cache(geometry.read)
_gpu = cache(hardware.read)
