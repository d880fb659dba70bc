"""Stand-ins: everything SGLang does at import time works, nothing works at run time. Each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

from service.runtime.cpu import stubs
from service.runtime.profiles import ROOT


def run(code):
    prelude = "from service.runtime.cpu import stubs\nstubs.install(force=True)\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


KERNELS = """
    import triton, triton.language as tl
    from triton.language.extra import libdevice

    LIMIT = tl.constexpr(448.0)

    @triton.jit
    def plain(x, BLOCK: tl.constexpr, dtype: tl.dtype | None = None): return tl.load(x)

    @triton.autotune(configs=[triton.Config({"BLOCK": 8}, num_warps=4)], key=["x"])
    @triton.heuristics({"EVEN": lambda args: True})
    @triton.jit(do_not_specialize=["x"])
    def tuned(x): return libdevice.tanh(x)
"""


def test_kernels_can_be_defined():
    assert run(KERNELS + "    assert LIMIT == 448.0 and plain.__name__ == 'plain'").returncode == 0


@pytest.mark.parametrize(
    "launch", ["plain[(1,)](1, BLOCK=2)", "plain(1)", "tuned[lambda meta: (1,)](1)", "plain.run(1)"]
)
def test_launching_a_kernel_raises_and_names_it(launch):
    stderr = run(KERNELS + f"    {launch}").stderr
    assert "StandInCalledError: triton kernel __main__." + launch.split("(")[0].split("[")[0].split(".")[0] in stderr
    assert "Aerie's CPU runtime" in stderr


@pytest.mark.parametrize(
    "call",
    [
        "torchvision.io.read_image('x')",
        "torchvision.transforms.functional.resize(1)",
        "triton.testing.do_bench(print)",
        "tl.load(1)",
    ],
)
def test_calling_anything_else_raises_and_names_it(call):
    imports = "import torchvision.io, torchvision.transforms.functional, triton.testing\nimport triton.language as tl\n"
    expected = call.split("(")[0].replace("tl.", "triton.language.")
    assert f"StandInCalledError: {expected} was called" in run(imports + call).stderr


def test_types_can_be_named_subclassed_and_tested_for():
    code = """
        import torchvision.transforms as T
        from torchvision.transforms import InterpolationMode

        class Mine(T.Resize): pass
        mode = InterpolationMode.BICUBIC
        def f(x: T.Resize | None, y: T.Compose[int]): pass
        assert not isinstance(3, T.Resize)
        assert not hasattr(T, "__all__")
    """
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_host_arithmetic_is_real():
    assert [stubs.next_power_of_2(n) for n in (0, 1, 2, 3, 1000)] == [1, 1, 2, 4, 1024]
    assert [stubs.cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_installing_after_the_real_import_is_an_error():
    assert run("stubs.sys.modules['other'] = 1\nstubs.install(['other'], force=True)").stderr.endswith(
        "RuntimeError: other: imported before the stand-ins were installed\n"
    )


def test_a_missing_package_stays_missing_for_those_who_ask():
    """torch and transformers must not find a package because a stand-in answers to its name."""
    code = """
        import importlib.util, sys
        import service.runtime.cpu.stubs as stubs
        real = importlib.util.find_spec
        def find_nothing(name, *rest):
            return None if name.split(".")[0] in stubs.PACKAGES else real(name, *rest)
        importlib.util.find_spec = find_nothing
        sys.modules["triton"] = None  # `import triton` raises ImportError
        stubs._settle_availability()
        del sys.modules["triton"]
        importlib.util.find_spec = real
        stubs.install(force=True)
        import triton
        from torch.utils._triton import has_triton_package
        from transformers.utils import import_utils
        assert not has_triton_package()
        assert not import_utils.is_torchvision_available()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_installed_package_is_left_alone():
    assert stubs.install(["json"]) == frozenset()
