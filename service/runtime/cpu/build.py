# ruff: noqa: PLC0415  torch is imported only when something is compiled
"""Compiles csrc/ into the shared library that holds the CPU runtime's hot ops.

Owns the compiler flags and the cache key. Refuses to guess: no compiler is a `BuildError`, not a
silent fall back to slower ops. `python -m service.runtime.cpu.build` prints the library's path.

The result runs on every CPU of its architecture: kernels are compiled for several x86-64 levels and chosen when the
library is loaded (csrc/dispatch.cpp), so a container image can carry it. It does not run under another torch version.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.runtime.cache import cache_dir, making

LIBRARY = "cpu_ops.so"
SOURCES = Path(__file__).parent / "csrc"

# -fopenmp-simd honours `#pragma omp simd`; -fno-math-errno lets sqrt be one instruction; -fno-trapping-math lets a
# comparison become a mask. None of them changes a value, an infinity or a NaN, which -ffast-math would: attention needs
# exp(-inf) and a NaN logit must stay visible.
KERNEL_FLAGS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
COMMON_FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
X86_VARIANTS = {
    "baseline": ["-march=x86-64"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16"],
}
OTHER_VARIANTS: dict[str, list[str]] = {"baseline": []}


class BuildError(RuntimeError):
    """The library cannot be built; the message says why and what to do instead."""


def build(directory: Path | None = None, compiler: str = "g++", further: Sequence[str] = ()) -> Path:
    """Path of the library below `directory` (default: the cache), compiled first unless it is there already.

    `further` flags are given to the compiler and the linker (scripts/sanitize.py).

    Raises BuildError without a compiler or when compiling fails. Safe to call from several processes at once.
    """
    found = shutil.which(compiler)
    if found is None:
        raise BuildError(
            f"{compiler} is not installed: install it, or set AERIE_CPU_OPS=torch for the slower PyTorch ops"
        )
    place = (directory or cache_dir() / "cpu_ops") / _key(found, further)
    try:
        with making(place) as unfinished:
            if unfinished is not None:
                _compile(found, unfinished, further)
    except OSError as error:
        raise BuildError(f"{place} cannot be written: {error.strerror or error}") from None
    return place / LIBRARY


def variants() -> dict[str, list[str]]:
    """Instruction-set variants of this architecture and their compiler flags, weakest first."""
    return X86_VARIANTS if platform.machine() == "x86_64" else OTHER_VARIANTS


def kernel_command(compiler: str, variant: str, output: Path) -> list[str]:
    """The command that compiles the kernels of one variant."""
    flags = [*COMMON_FLAGS, *KERNEL_FLAGS, *variants()[variant], f"-DAERIE_ISA={variant}"]
    return [compiler, *flags, "-c", str(SOURCES / "variant.cpp"), "-o", str(output)]


def _torch_command(compiler: str, source: str, output: Path) -> list[str]:
    import torch
    from torch.utils.cpp_extension import include_paths

    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    includes = [f"-isystem{path}" for path in include_paths()]
    return [compiler, *COMMON_FLAGS, "-O2", "-fopenmp", abi, *includes, "-c", str(SOURCES / source), "-o", str(output)]


def _link_command(compiler: str, objects: list[Path], output: Path) -> list[str]:
    from torch.utils.cpp_extension import library_paths

    paths = [f"-L{path}" for path in library_paths()]
    names = ["-ltorch", "-ltorch_cpu", "-lc10"]
    return [compiler, "-shared", "-fopenmp", *map(str, objects), *paths, *names, "-o", str(output)]


def _compile(compiler: str, place: Path, further: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=place) as name:
        scratch = Path(name)
        commands = [_torch_command(compiler, f"{part}.cpp", scratch / f"{part}.o") for part in ("bindings", "dispatch")]
        commands += [kernel_command(compiler, variant, scratch / f"{variant}.o") for variant in variants()]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(_run, [[*command, *further] for command in commands]))
        _run([*_link_command(compiler, sorted(scratch.glob("*.o")), place / LIBRARY), *further])


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"{command[0]} failed with exit status {result.returncode}:\n{result.stderr.strip()[-4000:]}")
    return result.stdout


def _key(compiler: str, further: Sequence[str]) -> str:
    """Everything the library depends on: sources, flags (all in this file), architecture, torch and the compiler."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(SOURCES.iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    facts = [platform.machine(), sys.version, version("torch"), _run([compiler, "--version"]), *further]
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:16]


def main() -> int:
    """Build and print the path; one line on stderr and status 1 when that fails."""
    try:
        sys.stdout.write(f"{build()}\n")
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
