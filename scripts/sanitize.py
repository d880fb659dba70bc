"""The tests of the compiled CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer (`make sanitize`).

An access beyond an array, in any instruction set that this machine has, ends the run with the place and status 1. Torch
itself is not instrumented, and what it leaks is not looked at.
"""

import os
import subprocess
import sys

from service.runtime.cpu import build
from service.runtime.profiles import ROOT

FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
TESTS = ("test_ops.py", "test_attention.py", "test_decoder.py", "test_draw.py", "test_slots.py", "test_bad_input.py")


def runtime_library(name: str) -> str:
    """The sanitizer's own library, which must be there before Python's allocator."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)  # noqa: S607
    return found.stdout.strip()


def main() -> int:
    """Build and test; the worst exit status."""
    library = build.build(further=FLAGS)
    environment = os.environ | {
        "AERIE_CPU_OPS": str(library),
        "ASAN_OPTIONS": "detect_leaks=0",
        "LD_PRELOAD": f"{runtime_library('libasan.so')} {runtime_library('libubsan.so')}",
    }
    tests = [str(ROOT / "tests/service/runtime/cpu" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "compiled", *tests, *sys.argv[1:]]
    status = 0
    for isa in build.variants():
        variant = environment | {"AERIE_CPU_ISA": isa, "PYTHONPATH": str(build.SOURCES.parent)}
        loads = subprocess.run(
            [sys.executable, "-c", "import sgl_kernel"], env=variant, capture_output=True, check=False
        )
        if b"does not support it" in loads.stderr:
            print(f"== {isa}: not on this CPU", flush=True)
            continue
        print(f"== {isa}", flush=True)
        status = max(status, subprocess.run(command, cwd=ROOT, env=variant, check=False).returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
