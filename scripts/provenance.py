"""What a script's figures were measured with."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def provenance() -> dict[str, str]:
    """What the figures were measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False)  # noqa: S607
    model = next(
        (line.partition(":")[2].strip() for line in cpu.stdout.splitlines() if line.startswith("Model name")), "?"
    )
    return {
        "command": " ".join([f"python -m scripts.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "sglang": version("sglang"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "cpu": model,
    }
