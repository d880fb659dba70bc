"""Building the library: cached, whole or not at all, one at a time, and clear when it cannot be done."""

import os
import platform
import shutil
import subprocess
import sys
import threading

import pytest

from service.runtime.cpu import build as cpu_build
from service.runtime.profiles import ROOT

FAKE_COMPILER = """#!/bin/sh
echo "$*" >> "{log}"
if [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi
while [ $# -gt 1 ]; do shift; if [ "$1" = -o ]; then {action}; fi; done
"""


@pytest.fixture
def compiler(tmp_path):
    """A stand-in for g++ that logs its calls and writes what it is asked for (or fails)."""

    def make(action='echo built > "$2"'):
        path = tmp_path / "fake-g++"
        path.write_text(FAKE_COMPILER.format(log=tmp_path / "calls", action=action))
        path.chmod(0o755)
        return str(path)

    return make


def compilations(tmp_path):
    return [line for line in (tmp_path / "calls").read_text().splitlines() if " -o " in line]


def test_without_a_compiler_the_error_names_it_and_the_alternative(tmp_path):
    with pytest.raises(cpu_build.BuildError, match=r"no-such-g\+\+ is not installed.*AERIE_CPU_OPS=torch") as error:
        cpu_build.build(tmp_path, compiler="no-such-g++")
    assert "\n" not in str(error.value)


def test_a_second_build_compiles_nothing(tmp_path, compiler):
    cache = tmp_path / "cache"
    first = cpu_build.build(cache, compiler())
    count = len(compilations(tmp_path))
    assert count == len(cpu_build.variants()) + 3  # kernels, bindings, dispatch, link
    assert cpu_build.build(cache, compiler()) == first
    assert len(compilations(tmp_path)) == count


def test_another_compiler_version_is_another_library(tmp_path, compiler):
    first = cpu_build.build(tmp_path / "cache", compiler())
    path = compiler()
    text = (tmp_path / "fake-g++").read_text().replace("fake 1.0", "fake 2.0")
    (tmp_path / "fake-g++").write_text(text)
    assert cpu_build.build(tmp_path / "cache", path) != first


def test_a_failed_build_leaves_nothing_that_looks_like_a_library(tmp_path, compiler):
    cache = tmp_path / "cache"
    with pytest.raises(cpu_build.BuildError, match=r"exit status 3:\nout of luck"):
        cpu_build.build(cache, compiler("echo half > $2; echo out of luck >&2; exit 3"))
    assert list(cache.iterdir()) == []
    assert cpu_build.build(cache, compiler()).read_text() == "built\n"


def test_concurrent_builds_compile_once(tmp_path, compiler):
    path, results = compiler('sleep 0.1; echo built > "$2"'), []
    threads = [
        threading.Thread(target=lambda: results.append(cpu_build.build(tmp_path / "cache", path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(compilations(tmp_path)) == len(cpu_build.variants()) + 3


def test_importing_the_build_needs_no_torch():
    code = "import sys, service.runtime.cpu.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("nm"), reason="x86-64 with binutils")
def test_no_variant_shares_code_that_the_linker_could_swap(tmp_path):
    """A weak symbol compiled for AVX-512 could be the one copy every variant calls."""
    target = tmp_path / "avx512.o"
    subprocess.run(cpu_build.kernel_command("g++", "avx512", target), check=True)
    symbols = [line.split()[-2:] for line in subprocess.check_output(["nm", target], text=True).splitlines()]
    assert {kind for kind, _ in symbols} <= set("tTrRdDU")
    assert [name for kind, name in symbols if kind in "TDR"] == ["_ZN5aerie6avx5125tableE"]
    assert {name for kind, name in symbols if kind == "U"} <= {"log", "tanhf", "memset", "memcpy", "memmove", "sqrtf"}


def test_the_command_prints_the_library(tmp_path):
    environment = os.environ | {"PATH": str(tmp_path)}
    command = [sys.executable, "-m", "service.runtime.cpu.build"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "g++ is not installed" in result.stderr
