"""Make `.venv` from the lock: `python3.11 scripts/setup.py [dev]`. Standard library only; this runs before anything is.

Installs torch from the default index, or from TORCH_INDEX_URL where the default would bring a CUDA build, then every
pinned package without looking at requirements of its own. Done means done: the stamp that says so is written last and
holds the lock's hash, so an interrupted or outdated set-up is taken up again. Every failure is one line.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements"
FREE_BYTES = 5 * 2**30


class SetupError(Exception):
    """Set-up cannot go on; the message is the one line to show."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"aerie: {text}", file=sys.stderr, flush=True)


def fingerprint(files: list[Path]) -> str:
    """What the stamp must hold for the environment to count as made."""
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def locks(name: str) -> list[Path]:
    """A lock and the ones it includes, innermost first."""
    path = REQUIREMENTS / f"{name}.txt"
    included = re.findall(r"^-r (.+)\.txt$", path.read_text(), flags=re.MULTILINE)
    return [lock for inner in included for lock in locks(inner)] + [path]


def run(command: list[str], doing: str) -> tuple[int, str]:
    """Exit status and errors of a command, with a line of progress every ten seconds."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                say(f"{doing} ({time.monotonic() - started:.0f} s)")
            else:
                return process.returncode, errors


def pip(doing: str, *arguments: str) -> None:
    """Run `pip install`, saying what it is for.

    Raises:
        SetupError: pip failed; the sentence tells a missing network from any other failure.
    """
    say(doing)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    status, output = run([*command, *arguments], doing)
    if status == 0:
        return
    if re.search(r"connection|resolve|network|timed out|Retrying", output, flags=re.IGNORECASE):
        raise SetupError("the package index cannot be reached: check the network, or pip's index settings")
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR")]
    raise SetupError(f"pip failed while {doing}: {errors[0] if errors else f'exit status {status}'}")


def torch_arguments(lock: Path) -> list[str]:
    """How torch is installed: with its own requirements, from the index with CPU builds where one is named."""
    pin = re.search(r"^torch==.+$", lock.read_text(), flags=re.MULTILINE)
    if pin is None:
        raise SetupError(f"{lock.name} pins no torch")
    index = os.environ.get("TORCH_INDEX_URL")
    return [pin[0], *(["--index-url", index] if index else [])]


def check_machine() -> None:
    """Raises SetupError where set-up could only fail later, and less clearly."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f"Python 3.11 is needed, this is {sys.version.split()[0]}: run make with PYTHON=python3.11")
    stats = os.statvfs(ROOT)
    if stats.f_bavail * stats.f_frsize < FREE_BYTES:
        raise SetupError(f"{FREE_BYTES // 2**30} GB of free disk are needed for the environment and the model")


def make_venv() -> None:
    """A fresh `.venv` with pip."""
    try:
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    except subprocess.CalledProcessError:  # Debian splits ensurepip off
        raise SetupError(
            "this Python cannot make environments: install python3.11-venv, or name another PYTHON="
        ) from None


def install(name: str) -> None:
    """Create the environment if need be and install one lock into it, skipping what is up to date."""
    files = locks(name)
    stamp, wanted = VENV / f".aerie-{name}", fingerprint([*files, ROOT / "pyproject.toml"])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    check_machine()
    started = time.monotonic()
    if not (VENV / "bin" / "python").exists():
        say("making .venv")
        make_venv()
    runtime = next(path for path in files if path.name == "runtime-cpu.txt")
    pip("installing torch (about 200 MB)", *torch_arguments(runtime))
    count = sum(path.read_text().count("==") for path in files)
    pip(f"installing SGLang and {count - 1} other pinned packages", "--no-deps", "-r", str(files[-1]))
    pip("installing aerie", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(wanted)
    say(f"environment ready in {time.monotonic() - started:.0f} s")


def main() -> int:
    """Install the lock named on the command line (the runtime's by default)."""
    try:
        install(sys.argv[1] if len(sys.argv) > 1 else "runtime-cpu")
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
