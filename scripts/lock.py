"""Write requirements/*.txt: the pinned closure of requirements/*.in, as installed in this environment.

The lock is installed with `pip install --no-deps`, so it must be the whole closure; this walks the installed packages'
own metadata from the names in the `.in` files. A name marked `# no-deps` is pinned but not followed. Run `make lock`
in an environment that has them installed; a name that is not installed is an error.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
NEVER = {"triton"}  # 1 GB, and stubbed on CPU (service/runtime/cpu)


def read(path: Path) -> tuple[list[str], list[tuple[Requirement, bool]]]:
    """The other files a `.in` file includes, and its requirements with whether to follow them."""
    included, roots = [], []
    for line in path.read_text().splitlines():
        text, _, comment = line.partition("#")
        if text.startswith("-r "):
            included.append(text[3:].strip())
        elif text.strip():
            roots.append((Requirement(text.strip()), "no-deps" not in comment))
    return included, roots


def needs(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed package requires in this environment, with the extras asked for."""
    for text in distribution(requirement.name).requires or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            yield need


def closure(roots: list[tuple[Requirement, bool]]) -> dict[str, str]:
    """Canonical name -> version of everything reachable from the roots."""
    pins: dict[str, str] = {}
    open_ends = [requirement for requirement, follow in roots if follow]
    for requirement, follow in roots:
        if not follow:
            pins[canonicalize_name(requirement.name)] = distribution(requirement.name).version
    while open_ends:
        requirement = open_ends.pop()
        name = canonicalize_name(requirement.name)
        if name in pins or name in NEVER:
            continue
        pins[name] = distribution(name).version
        open_ends.extend(needs(requirement))
    return pins


def main() -> int:
    """Write one `.txt` beside every `.in`."""
    for path in sorted(FOLDER.glob("*.in")):
        included, roots = read(path)
        pending = list(included)
        inherited: set[str] = set()
        while pending:
            more, theirs = read(FOLDER / pending.pop())
            pending += more
            inherited |= set(closure(theirs))
        try:
            pins = closure(roots)
        except PackageNotFoundError as missing:
            print(f"lock: {missing.name} is not installed; install requirements/{path.name} first", file=sys.stderr)
            return 1
        lines = [f"# {path.name}, pinned by scripts/lock.py; installed with --no-deps."]
        lines += [f"-r {Path(name).with_suffix('.txt')}" for name in included]
        # a local version label (torch's +cpu) names a build, not a release: the index decides the build
        lines += [f"{name}=={re.sub(r'[+].*', '', pins[name])}" for name in sorted(set(pins) - inherited)]
        path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
