"""The Dockerfile: linted by hadolint, read by BuildKit's parser, and its gateway built and run step by step."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import dockerfile
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loadtest.launch import free_port
from tests.deploy.stages import DOCKERFILE, ROOT, WORK, Build, Stage, impossible, indexes, stages

BASE_BYTES = 130_000_000
"""Of python:3.11-slim, at most; what its users tell is 121 to 130 MB. Docker is not here to ask."""
IMAGE_BYTES = 200_000_000
FINAL = ("gateway", "runtime-cpu", "runtime")
HEAVY = ("torch", "sglang", "transformers")
PROBE = f"import importlib.util, service.gateway.app; print([n for n in {HEAVY} if importlib.util.find_spec(n)])"


def instructions(stage: Stage, name: str) -> list[dockerfile.Command]:
    return [step for step in stage.steps if step.cmd == name]


def pins(lock: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_hadolint_finds_nothing() -> None:
    command = [Path(sys.executable).parent / "hadolint", "--failure-threshold", "style", DOCKERFILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_a_number_says_how_it_is_and_under_which_licence(name: str) -> None:
    stage = stages()[name]
    user, probe = stage.last("USER"), stage.last("HEALTHCHECK")
    assert user is not None
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.value[0])
    assert probe is not None
    assert probe.json
    labels = [word for step in instructions(stage, "LABEL") for word in step.value]
    assert labels[labels.index("org.opencontainers.image.licenses") + 1] == '"Apache-2.0"'


@pytest.mark.parametrize("name", ["gateway", "runtime-cpu"])
def test_a_base_is_pinned_by_digest(name: str) -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", stages()[name].base)


def test_the_gpu_base_is_sglangs_image_of_the_pinned_version() -> None:
    assert stages()["runtime"].base == f"lmsysorg/sglang:v{pins('runtime-cpu.txt')['sglang']}-runtime"


def test_every_image_says_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in FINAL:
        assert f"VERSION={version}" in [step.value[0] for step in instructions(stages()[name], "ARG")]


def test_the_context_lets_through_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copies = [step for stage in stages().values() for step in instructions(stage, "COPY") if not step.flags]
    copied = {source for step in copies for source in step.value[:-1]}
    assert {source.split("/")[0] for source in copied} == {name.split("/")[0] for name in let_through}


def needs(name: str, found: set[str]) -> set[str]:
    """An installed package's requirements, and theirs, by canonical name."""
    try:
        texts = distribution(name).requires or []
    except PackageNotFoundError:
        return found
    for need in map(Requirement, texts):
        called = canonicalize_name(need.name)
        if called not in found and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found.add(called)
            needs(called, found)
    return found


def test_the_gpu_image_adds_what_the_gateway_needs_and_sglang_does_not_bring() -> None:
    (step,) = (step for step in instructions(stages()["runtime"], "RUN") if "grep" in step.value[0])
    (names,) = re.findall(r"\^\(([^)]*)\)==", step.value[0])
    assert set(names.split("|")) == pins("gateway.txt").keys() - needs("sglang", set())


def served(build: Build, stage: Stage) -> list[str]:
    """The image's own command, until its own health check says it is well; then what it answers, and how it ends."""
    port, entry, command, probe = free_port(), stage.last("ENTRYPOINT"), stage.last("CMD"), stage.last("HEALTHCHECK")
    assert entry is not None
    assert command is not None
    assert probe is not None
    on_port = ["env", f"AERIE_PORT={port}"]
    healthy = build.in_container(*on_port, *probe.value[1:])
    return [
        f"{build.in_container(*on_port, *entry.value, *command.value)} 2> {WORK}/log & pid=$!",
        f"for attempt in $(seq 100); do {healthy} 2> /dev/null && break; kill -0 $pid; sleep 0.2; done",
        f"{healthy} && echo healthy",
        f"curl -s -o /dev/null -w '%{{http_code}}\\n' http://127.0.0.1:{port}/readyz",
        f"curl -s http://127.0.0.1:{port}/metrics | grep -c '^# TYPE aerie_'",
        "kill -TERM $pid; wait $pid && echo ended",
    ]


@pytest.mark.e2e
def test_the_gateways_steps_make_a_small_image_that_serves_read_only_as_nobody() -> None:
    if (why := impossible()) is not None:
        pytest.skip(why)
    build = Build("gateway", indexes())
    root = f"{WORK}/gateway/root"
    writes = f"if {build.in_container('touch', '/opt/aerie/x')} 2> /dev/null; then echo writable; fi"
    probes = [f"du -sb {root}/opt/aerie | cut -f1", build.read_only(), writes, build.in_container("id", "-u")]
    lines = [*probes, build.in_container("python", "-c", PROBE), *served(build, stages()["gateway"])]
    size, user, forbidden, health, ready, metrics, end = build.run(*lines).splitlines()
    assert int(size) + BASE_BYTES < IMAGE_BYTES
    assert (user, forbidden, health, ready, end) == ("10001", "[]", "healthy", "503", "ended")
    assert int(metrics) > 20
