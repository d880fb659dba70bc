"""Makes `import sgl_kernel` work as in the runtime's child process, with the compiled library (built once, cached)."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the child; must precede torch

from types import SimpleNamespace

import pytest
import torch

from service.runtime.cpu import build as cpu_build
from service.runtime.cpu import serve

LIBRARY = os.environ.get("AERIE_CPU_OPS") or str(cpu_build.build())
sys.path.insert(0, str(serve.HERE))
with pytest.MonkeyPatch.context() as patch:  # read when the module is imported; other tests must not inherit it
    patch.setenv("AERIE_CPU_OPS", LIBRARY)
    import sgl_kernel

COMPILED = LIBRARY != "torch"
NAMES = [op.name.split("::")[1] for op in sgl_kernel.ops.OPS]


def implementation(kind):
    if kind == "compiled":
        names = {
            name: getattr(torch.ops.sgl_kernel, name, None) or getattr(torch.ops.aerie_cpu, name) for name in NAMES
        }
        return SimpleNamespace(**names)
    return SimpleNamespace(**{op.name.split("::")[1]: op.torch_implementation for op in sgl_kernel.ops.OPS})


@pytest.fixture(params=["compiled", "pytorch"])
def ops(request):
    """The two implementations of every op, held to the same tests."""
    if request.param == "compiled" and not COMPILED:
        pytest.skip("AERIE_CPU_OPS=torch")
    return implementation(request.param)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
