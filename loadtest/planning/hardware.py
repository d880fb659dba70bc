"""GPUs: what their data sheets promise (`hardware.yaml`), or what a file of the user's own says.

Refuses to own what of it a runtime reaches (roofline.py).
"""

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest.document import Positive
from loadtest.errors import PlanError


class Gpu(BaseModel):
    """One accelerator; rates are dense peaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_gb: Positive
    bandwidth_gb_per_s: Positive
    bf16_tflops: Positive
    fp8_tflops: Positive | None = None
    link_gb_per_s: Positive
    source: str

    def flops_per_s(self, weight_bytes: int) -> float:
        """The peak in the weights' precision; a GPU without it computes in 16 bits."""
        return 1e12 * (self.fp8_tflops if weight_bytes == 1 and self.fp8_tflops else self.bf16_tflops)


def read(name: str) -> Gpu:
    """A GPU by name, or from a YAML file with the same fields.

    Raises:
        PlanError: neither.
    """
    known = _known()
    if name.lower() in known:
        return known[name.lower()]
    try:
        return Gpu.model_validate(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
    except OSError as error:
        raise PlanError(f"{name}: no such GPU: give one of {', '.join(known)}, or a YAML file") from error
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise PlanError(f"{name}: not a GPU's YAML; it needs {', '.join(Gpu.model_fields)}") from error


def names() -> tuple[str, ...]:
    """Of those that are known."""
    return tuple(_known())


def _known() -> dict[str, Gpu]:
    text = resources.files(__package__).joinpath("hardware.yaml").read_text(encoding="utf-8")
    return {name: Gpu.model_validate(entry) for name, entry in yaml.safe_load(text).items()}
