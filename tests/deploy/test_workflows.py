"""GitHub Actions: linted by actionlint and zizmor, and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.stages import ROOT, stages

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TOOLS = Path(sys.executable).parent
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
OURS = re.compile(r"uses: \$/\.github/workflows/\w+\.yml$")


def said(*command: str | Path) -> tuple[int, str]:
    """Status and output of a linter, in the repository; shellcheck is found beside it."""
    done = subprocess.run(
        [TOOLS / command[0], *command[1:]],
        cwd=ROOT, env={"PATH": f"{TOOLS}:/usr/bin:/bin", "NO_COLOR": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def loaded(path: Path) -> dict[str, Any]:
    """YAML 1.1 reads `on` as true; nothing here asks for it."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{path.stem}: {name}", job) for path in WORKFLOWS for name, job in loaded(path)["jobs"].items()]


def scripts() -> str:
    return "\n".join(step.get("run", "") for _, job in jobs() for step in job.get("steps", []))


def test_actionlint_finds_nothing() -> None:
    assert said("actionlint", *WORKFLOWS) == (0, "")


def test_zizmor_finds_nothing() -> None:
    status, output = said("zizmor", "--offline", "--quiet", ROOT / ".github")
    assert status == 0, output


@pytest.mark.parametrize(
    ("schema", "paths"), [("workflows", WORKFLOWS), ("dependabot", [ROOT / ".github" / "dependabot.yml"])]
)
def test_the_files_are_of_their_schema(schema: str, paths: list[Path]) -> None:
    builtin = "vendor.dependabot" if schema == "dependabot" else "vendor.github-workflows"
    status, output = said("check-jsonschema", "--builtin-schema", builtin, *paths)
    assert status == 0, output


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_by_commit_and_its_version_told(path: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.match(line) and not OURS.match(line)] == []


@pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])
def test_a_job_says_what_it_may_and_writes_only_in_a_release(name: str, job: dict[str, Any]) -> None:
    writes = {scope for scope, access in job["permissions"].items() if access == "write"}
    assert not writes or name.startswith("release: ")


def test_what_is_asked_of_make_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    asked = re.findall(r"^make ([a-z-]+)", scripts(), flags=re.MULTILINE)
    assert {"check", "test"} <= set(asked) <= set(targets)


def test_ci_weighs_the_images_that_compose_builds() -> None:
    compose = yaml.safe_load(
        (ROOT / "docker-compose.yml").read_text().replace("${AERIE_VERSION:-", "").replace("}-", "-")
    )
    names = {service["image"] for service in compose["services"].values()}
    weighed = re.findall(r"\baerie:[\w.-]+", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert weighed
    assert set(weighed) <= names


def test_a_release_builds_the_images_that_compose_and_the_chart_name() -> None:
    (matrix,) = (job["strategy"]["matrix"]["include"] for name, job in jobs() if name == "release: images")
    assert {one["target"] for one in matrix} <= stages().keys()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    built = {(one["build"]["target"], one["image"].rpartition("-")[2]) for one in compose if "build" in one}
    assert {(one["target"], one["suffix"]) for one in matrix} == built
