"""Dockerfile stages without Docker: each step as it is written, in a throw-away overlay of this machine's root.

Owns a small part of what builders do (FROM, ARG, ENV, WORKDIR, COPY, RUN) and a container of the result. The
machine's root stands in for each base image, its Python for theirs. Refuses to own what is asked of an image. All of
it is in one mount namespace and one file system in memory, which go with the process. Needs root, and a kernel with
overlayfs.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import NamedTuple

import dockerfile

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
WORK = "/mnt"
"""Where the file system of the stages is mounted, in the namespace of the build only."""
PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUILD_S = 900

PREPARE = f"""
set -euo pipefail
mount -t tmpfs -o mode=755 stages {WORK}
stage() {{ # name, lower directories
    mkdir -p {WORK}/$1/up {WORK}/$1/work {WORK}/$1/root
    mount -t overlay -o "lowerdir=$2,upperdir={WORK}/$1/up,workdir={WORK}/$1/work" overlay {WORK}/$1/root
    mount -t proc proc {WORK}/$1/root/proc
    mount -t sysfs -o ro sysfs {WORK}/$1/root/sys
    mount --rbind /dev {WORK}/$1/root/dev
    cat /etc/resolv.conf > {WORK}/$1/root/etc/resolv.conf
}}
copy() {{ # source, destination, and what is left out: a folder's content, or a file
    if [ -d "$1" ]; then mkdir -p "$2"; tar -C "$1" ${{3:-}} -cf - . | tar -C "$2" -xf -; else cp "$1" "$2"; fi
}}
"""


class Unbuildable(Exception):
    """A step failed; the message is the end of what was said."""


class Stage(NamedTuple):
    """One FROM and what follows it."""

    name: str
    base: str
    steps: list[dockerfile.Command]

    def last(self, instruction: str) -> dockerfile.Command | None:
        """The one that holds."""
        return next((step for step in reversed(self.steps) if step.cmd == instruction), None)


def stages() -> dict[str, Stage]:
    """By name, in their order; a base that an ARG names is the ARG's default."""
    found: dict[str, Stage] = {}
    defaults: dict[str, str] = {}
    for command in dockerfile.parse_file(str(DOCKERFILE)):
        if command.cmd == "FROM":
            base, _, name = command.value
            current = found[name] = Stage(name, Template(base).substitute(defaults), [])
        elif found:
            current.steps.append(command)
        else:
            name, _, default = command.value[0].partition("=")
            defaults[name] = default
    return found


@dataclass
class Build:
    """A shell script that builds a stage and those it needs, and then does what it is told inside."""

    target: str
    arguments: dict[str, str]
    lines: list[str] = field(default_factory=list)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stage(self.target)

    def in_container(self, *command: str) -> str:
        """A command line as the image's user would run it, in the image's environment."""
        user = stages()[self.target].last("USER")
        options = [f"--userspec={user.value[0]}"] if user else []
        return self._inside(self.target, f"exec {shlex.join(command)}", *options)

    def read_only(self) -> str:
        """From then on nothing can be written but an empty /tmp."""
        root = f"{WORK}/{self.target}/root"
        return f"mount -o remount,ro {root} && mount -t tmpfs -o mode=1777 tmp {root}/tmp"

    def run(self, *lines: str) -> str:
        """Build, then these lines; what they print.

        Raises:
            Unbuildable: a step or a line failed.
        """
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        script = "\n".join([PREPARE, *self.lines, "exec 1>&3", *lines])
        done = subprocess.run(
            [*command, "bash", "-c", f"exec 3>&1 1>&2\n{script}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            cwd=ROOT,
        )
        if done.returncode:
            raise Unbuildable(f"{done.stderr[-4000:]}\n{done.stdout[-4000:]}")
        return done.stdout

    def _stage(self, name: str) -> None:
        """Its lines, after those of the stages it needs."""
        if name in self.environments:
            return
        stage = stages()[name]
        if stage.base in stages():
            self._stage(stage.base)
        for source in _sources(stage):
            self._stage(source)
        self.environments[name] = dict(self.environments.get(stage.base, {"PATH": PATH}))
        self.folders[name] = self.folders.get(stage.base, "/")
        lower = [f"{WORK}/{parent}/up" for parent in _lineage(stage)]
        self.lines.append(f"stage {name} {':'.join([*lower, '/'])}")
        base = Path(sys.base_prefix)  # the Python of the base image, which any user may run
        self.lines += [f"chmod o+rx {WORK}/{name}/root{folder}" for folder in [base, *base.parents][:-1]]
        for step in stage.steps:
            self._step(name, step)

    def _step(self, stage: str, step: dockerfile.Command) -> None:
        environment, root = self.environments[stage], f"{WORK}/{stage}/root"
        if step.cmd == "ARG":
            name, _, default = step.value[0].partition("=")
            value = self.arguments.get(name, default)
            environment |= {name: value} if value else {}
        elif step.cmd == "ENV":
            pairs = zip(step.value[::2], step.value[1::2], strict=True)
            environment |= {name: Template(value).safe_substitute(environment) for name, value in pairs}
        elif step.cmd == "WORKDIR":
            self.folders[stage] = step.value[0]
            self.lines.append(f"mkdir -p {root}{step.value[0]}")
        elif step.cmd == "COPY":
            self.lines += self._copies(stage, step)
        elif step.cmd == "RUN":
            self.lines.append(self._inside(stage, step.value[0]))

    def _copies(self, stage: str, step: dockerfile.Command) -> Iterator[str]:
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in step.flags)
        *sources, destination = step.value
        inside = f"{WORK}/{stage}/root{Path(self.folders[stage]) / destination}"
        slash, ignored = ("/" if destination.endswith("/") else "", "" if "from" in flags else "--exclude=__pycache__")
        for source in sources:
            place = f"{WORK}/{flags['from']}/root{source}" if "from" in flags else str(ROOT / source)
            yield f"mkdir -p {Path(inside).parent} && copy {place} {inside}{slash} {ignored}"
        if "chown" in flags:
            yield f"chown -R {flags['chown']} {inside}"

    def _inside(self, stage: str, command: str, *options: str) -> str:
        environment = [f"{name}={value}" for name, value in self.environments[stage].items()]
        shell = ["/bin/sh", "-c", f"cd {self.folders[stage]} && {command}"]
        return shlex.join(["chroot", *options, f"{WORK}/{stage}/root", "/usr/bin/env", "-i", *environment, *shell])


def _sources(stage: Stage) -> list[str]:
    flags = [flag for step in stage.steps if step.cmd == "COPY" for flag in step.flags]
    return [flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")]


def _lineage(stage: Stage) -> list[str]:
    """The stages below it, the nearest first."""
    known = stages()
    return [stage.base, *_lineage(known[stage.base])] if stage.base in known else []


def indexes() -> dict[str, str]:
    """Build arguments for the package index of this machine, where it is not pip's default."""
    return {name: value for name, value in os.environ.items() if name in ("PIP_INDEX_URL", "TORCH_INDEX_URL")}


def impossible() -> str | None:
    """Why this machine cannot; None where it can."""
    folders = f"lowerdir=/,upperdir={WORK}/up,workdir={WORK}/work"
    made = f"mount -t tmpfs t {WORK} && mkdir {WORK}/up {WORK}/work {WORK}/root"
    attempt = f"{made} && mount -t overlay -o {folders} o {WORK}/root"
    try:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", attempt], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"stages are built with unshare, which cannot be run: {error}"
    return (
        f"stages are built in an overlay, which cannot be mounted: {done.stderr.strip()}" if done.returncode else None
    )
