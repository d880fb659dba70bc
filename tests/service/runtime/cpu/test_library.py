"""What AERIE_CPU_OPS and AERIE_CPU_ISA choose, each in a process of its own, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sgl_kernel
import torch
from sgl_kernel.unsupported import UNSUPPORTED

from service.runtime.cpu import build as cpu_build
from service.runtime.profiles import ROOT

from .conftest import COMPILED, LIBRARY

PROBED = ("fused_qk_norm_cpu", "fused_qk_norm_rope_cpu")  # SGLang asks with hasattr and falls back
needs_library = pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")


def isa_of(**environment):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("AERIE_CPU_")} | environment
    code = "import sgl_kernel, torch; print(torch.ops.aerie_cpu.isa())"
    return subprocess.run(
        [sys.executable, "-c", code], env=variables | {"PYTHONPATH": str(Path(sgl_kernel.__path__[0]).parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def supported(isa):
    flags = Path("/proc/cpuinfo").read_text()
    needs = {"baseline": "", "avx2": " avx2 ", "avx512": " avx512vl ", "avx512_bf16": " avx512_bf16 "}
    return needs[isa] in flags


def test_unset_is_an_error_that_says_what_to_do():
    result = isa_of()
    assert "AERIE_CPU_OPS is not set" in result.stderr
    assert "service.runtime.cpu.build" in result.stderr


def test_a_missing_library_is_named():
    assert "/nowhere/ops.so: no such file" in isa_of(AERIE_CPU_OPS="/nowhere/ops.so").stderr


def test_torch_needs_no_library():
    assert isa_of(AERIE_CPU_OPS="torch").stdout == "torch\n"


@needs_library
@pytest.mark.parametrize("isa", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_an_error(isa):
    result = isa_of(AERIE_CPU_OPS=LIBRARY, AERIE_CPU_ISA=isa)
    assert f"AERIE_CPU_ISA={isa} is unknown; this build has baseline" in result.stderr


@needs_library
def test_the_best_instruction_set_is_the_default():
    best = [isa for isa in cpu_build.variants() if supported(isa)][-1]
    assert isa_of(AERIE_CPU_OPS=LIBRARY).stdout == f"{best}\n"


@needs_library
@pytest.mark.parametrize("isa", list(cpu_build.variants()))
def test_every_instruction_set_passes_the_op_tests(isa):
    """The same tests, in a process forced down to `isa` (or refused, where the CPU has less)."""
    result = isa_of(AERIE_CPU_OPS=LIBRARY, AERIE_CPU_ISA=isa)
    if not supported(isa):
        assert "this CPU does not support it" in result.stderr
        return
    assert result.stdout == f"{isa}\n"
    if isa == torch.ops.aerie_cpu.isa():
        return  # this very process runs it
    here = Path(__file__).parent
    tests = [str(here / name) for name in ("test_ops.py", "test_attention.py", "test_draw.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "compiled", *tests]
    environment = os.environ | {"AERIE_CPU_ISA": isa}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", [name for names in UNSUPPORTED.values() for name in names])
def test_unsupported_ops_can_be_bound_but_not_called(name):
    op = getattr(torch.ops.sgl_kernel, name)
    with pytest.raises(NotImplementedError, match=f"{name}: Aerie's CPU runtime .* use a GPU profile for"):
        op.default(torch.ones(1), anything=3)


@pytest.mark.parametrize("name", PROBED)
def test_ops_that_sglang_probes_for_stay_absent(name):
    assert not hasattr(torch.ops.sgl_kernel, name)


def test_sglang_takes_its_fast_path_because_this_op_exists():
    assert hasattr(torch.ops.sgl_kernel, "convert_weight_packed")


def test_one_process_is_all_there_is():
    torch.ops.sgl_kernel.initialize(1, 0)
    with pytest.raises(NotImplementedError, match="tp_size"):
        torch.ops.sgl_kernel.initialize(2, 0)


@pytest.mark.parametrize(("cores", "count"), [("0", 1), ("0,1", 2), ("0-3", 4), ("0-1,4-5", 4)])
def test_threads_are_counted_from_the_core_list(cores, count):
    before = torch.get_num_threads()
    try:
        assert str(count) in torch.ops.sgl_kernel.init_cpu_threads_env(cores)
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
