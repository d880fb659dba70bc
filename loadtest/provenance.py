"""Where a result comes from: the command, the code, the versions and the machine.

Owns these facts. Never writes a machine's paths: what lies under the working directory is relative to it, of anything
else only the name is kept.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path

import httpx

from loadtest.errors import EndpointError

PACKAGES = ("aerie", "httpx")


def arguments(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line without the machine's paths, those in `--option=path` included."""
    program, *rest = argv
    return (Path(program).name, *map(without_paths, rest))


def without_paths(argument: str) -> str:
    """An argument, or several in one, as of a runtime that is to be started."""
    return " ".join("=".join(map(_relative, word.split("="))) for word in argument.split(" "))


def versions() -> dict[str, str]:
    """Of what measured."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit() -> str | None:
    """The commit this code was checked out from, `-dirty` after it where files differ; None outside a checkout."""
    if not _output("git", "ls-files", "--error-unmatch", "__init__.py"):
        return None  # installed somewhere: the repository around it, if any, is not its own
    return _output("git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def hardware(url: str, device: str) -> str:
    """The machine that an endpoint runs on, if it is this one.

    Raises:
        EndpointError: it is not, or its hardware cannot be told.
    """
    found = (_processor() if device == "cpu" else _gpus()) if is_loopback(url) else None
    if not found:
        raise EndpointError(f"{url}: what hardware it runs on cannot be told from here: say it with --hardware")
    return found


def is_loopback(url: str) -> bool:
    """Whether an endpoint is on this machine for certain."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _gpus() -> str | None:
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return ", ".join(names.splitlines()) if names else None


def _relative(text: str) -> str:
    place, here = Path(text), Path.cwd()
    if not place.is_absolute():
        return text
    return str(place.relative_to(here)) if place.is_relative_to(here) else f".../{place.name}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _output(program: str, *rest: str) -> str | None:
    """What a program prints; None if it is not there or fails."""
    found = shutil.which(program)
    if found is None:
        return None
    done = subprocess.run([found, *rest], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
