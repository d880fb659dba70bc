# mypy: disable-error-code="no-untyped-call"
# (torch.library is not annotated)
"""Defines the ops and binds each to compiled code or to PyTorch, as AERIE_CPU_OPS says.

AERIE_CPU_OPS is the path of the library that `service.runtime.cpu.build` made, or `torch` for the PyTorch reference
implementation (slower, needs no compiler). There is no default: which of the two is served must be somebody's decision,
because the slow one works just as well in every respect but speed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

VARIABLE = "AERIE_CPU_OPS"


@dataclass(frozen=True)
class Op:
    """A schema (SGLang's, to the letter) and its PyTorch implementation."""

    namespace: str
    schema: str
    torch_implementation: Callable[..., Any]

    @property
    def name(self) -> str:
        """The qualified name, e.g. sgl_kernel::rmsnorm_cpu."""
        return f"{self.namespace}::{self.schema.split('(', 1)[0]}"

    @property
    def dispatch_key(self) -> str:
        """CPU, unless no argument is a tensor to dispatch on."""
        return "CPU" if "Tensor" in self.schema.split("->", 1)[0] else "CompositeExplicitAutograd"


_namespaces: dict[str, torch.library.Library] = {}


def load(ops: list[Op]) -> None:
    """Define `ops`, load the compiled library if one is asked for, and give the rest their PyTorch bodies.

    Raises RuntimeError when AERIE_CPU_OPS is unset or names no file, and when AERIE_CPU_ISA cannot be honoured.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        message = f"{VARIABLE} is not set: set it to what `python -m service.runtime.cpu.build` prints, or to `torch`"
        raise RuntimeError(message)
    for op in ops:
        _namespace(op.namespace).define(op.schema)
    if chosen != "torch":
        _load_library(Path(chosen))
    for op in ops:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(op.name, op.dispatch_key):
            _namespace(op.namespace).impl(op.name, op.torch_implementation, op.dispatch_key)
    torch.ops.aerie_cpu.isa()  # a wrong AERIE_CPU_ISA should fail here, not in the first request


def _namespace(name: str) -> torch.library.Library:
    if name not in _namespaces:
        _namespaces[name] = torch.library.Library(name, "FRAGMENT")  # lives as long as the process
    return _namespaces[name]


def _load_library(path: Path) -> None:
    if not path.is_file():
        message = (
            f"{VARIABLE}={path}: no such file; `python -m service.runtime.cpu.build` makes it, or set it to `torch`"
        )
        raise RuntimeError(message)
    torch.ops.load_library(str(path))
