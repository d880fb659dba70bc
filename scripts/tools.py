"""Programs for tests and pictures: Prometheus and promtool from PATH, else Debian's package unpacked into the cache;
Chromium and its driver from PATH, else installed, where that is root's to do.

`python -m scripts.tools` says where they are; `make test` calls it. Owns how they come onto this machine. Refuses to
own what is done with them. Standard library only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from service.runtime.cache import cache_dir, making

PACKAGE = "prometheus"
NAMES = ("prometheus", "promtool")
BROWSER = ("chromium", "chromedriver")
BROWSER_PACKAGES = ("chromium", "chromium-driver")
TIMEOUT_S = 300
UNAVAILABLE = "a program is not on PATH, and Debian's package could not be had"


class ToolsError(Exception):
    """A tool cannot be had; the message is the one line to show."""


class Tools(NamedTuple):
    """Executables."""

    prometheus: Path
    promtool: Path


def find() -> Tools:
    """The tools, fetched the first time.

    Raises:
        ToolsError: they are neither on PATH nor in the cache, and Debian's package cannot be had.
    """
    on_path = [shutil.which(name) for name in NAMES]
    if all(on_path):
        return Tools(*(Path(found) for found in on_path if found))
    folder = cache_dir() / "tools" / PACKAGE
    with making(folder) as fresh:
        if fresh is not None:
            _unpack(fresh)
    return Tools(*(folder / "usr" / "bin" / name for name in NAMES))


def _unpack(folder: Path) -> None:
    """Debian's package, without what it depends on: the executables need the C library only."""
    with tempfile.TemporaryDirectory() as scratch:
        _download(Path(scratch))
        (package,) = Path(scratch).glob(f"{PACKAGE}_*.deb")
        _run(["dpkg-deb", "-x", str(package), str(folder)], cwd=Path(scratch))
    for name in NAMES:
        _run([str(folder / "usr" / "bin" / name), "--version"], cwd=folder)


def _download(folder: Path) -> None:
    """Into this folder; with package lists of its own where the machine's are missing or old."""
    try:
        _run(["apt-get", "download", PACKAGE], cwd=folder)
    except ToolsError:
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        options = (f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache", "Debug::NoLocking=1")
        own = [word for option in options for word in ("-o", option)]
        _run(["apt-get", *own, "update"], cwd=folder)
        _run(["apt-get", *own, "download", PACKAGE], cwd=folder)


def browser() -> tuple[Path, ...]:
    """Chromium and its driver.

    Raises:
        ToolsError: they are not here, and cannot be installed.
    """
    if not all(map(shutil.which, BROWSER)):
        if os.geteuid() != 0:
            raise ToolsError(f"no {' and '.join(BROWSER)} on PATH: apt-get install {' '.join(BROWSER_PACKAGES)}")
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *BROWSER_PACKAGES]
        try:
            _run(install, cwd=Path("/"))
        except ToolsError:
            _run(["apt-get", "update"], cwd=Path("/"))
            _run(install, cwd=Path("/"))
    return tuple(Path(found) for found in map(shutil.which, BROWSER) if found)


def _run(command: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolsError(f"{UNAVAILABLE}: {' '.join(command)}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ToolsError(f"{UNAVAILABLE}: {' '.join(command)}: {last}")


def main() -> int:
    """Say where they are."""
    status = 0
    for having in (find, browser):
        try:
            print(*having(), sep="\n")
        except ToolsError as error:
            print(f"aerie: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
