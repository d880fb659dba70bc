"""Where a result comes from: the command, the code, the machine and the time, in every report and every draft.

Owns these facts. Refuses to own what is particular to a result (data, targets, digests of drafts), and never writes a
machine's paths: what lies under the working directory is relative to it, of anything else only the name is kept.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from draft_models.errors import DataError

PACKAGES = ("aerie", "torch", "transformers")


def provenance() -> dict[str, Any]:
    """What a JSON report says about its own making."""
    return {
        "argv": arguments(sys.argv),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def arguments(argv: Sequence[str]) -> list[str]:
    """The command line without the machine's paths, those in `--option=path` included."""
    program, *rest = argv
    return [Path(program).name, *("=".join(map(relative, argument.split("="))) for argument in rest)]


def relative(path: Path | str) -> str:
    """An absolute path as seen from the working directory, or `.../name` where it lies elsewhere; others unchanged."""
    place, here = Path(path), Path.cwd()
    if not place.is_absolute():
        return str(path)
    return str(place.relative_to(here)) if place.is_relative_to(here) else f".../{place.name}"


def commit() -> str | None:
    """The commit this code was checked out from, `-dirty` after it where files differ; None outside a checkout."""
    if not _git("ls-files", "--error-unmatch", "__init__.py"):
        return None  # installed somewhere: the repository around it, if any, is not its own
    return _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def hardware() -> str:
    """Processor, how many CPUs of it this process may use, torch's threads; GPUs."""
    parts = [_processor(), f"{len(os.sched_getaffinity(0))} CPUs", f"{torch.get_num_threads()} threads"]
    parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(parts)


def file_sha256(path: Path) -> str:
    """What `sha256sum` prints.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error}") from error


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # without optional locks it writes nothing, not even the index's cached times
    found = subprocess.run(
        [git, "--no-optional-locks", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None
