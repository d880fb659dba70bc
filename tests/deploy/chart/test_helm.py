"""Helm itself, its third and its fourth version, takes the chart."""

import json
from pathlib import Path

import pytest

from scripts import tools
from tests.deploy.chart.render import (
    CHART,
    CPU,
    NAMESPACE,
    RELEASE,
    each_values,
    helm,
    name,
    objects,
    rendered,
    template,
)

each_helm = pytest.mark.parametrize("major", tools.LAYERS)


@each_helm
@each_values
def test_helm_lint_has_nothing_to_say(values: Path, major: int) -> None:
    done = helm("lint", "--strict", "--quiet", CHART, "--values", values, major=major)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@each_values
def test_helm_3_and_helm_4_render_the_same_objects(values: Path) -> None:
    assert rendered(values, major=3) == rendered(values, major=4)


@each_values
def test_a_dry_run_of_an_install_shows_the_same_objects_and_says_what_to_do_next(values: Path) -> None:
    done = helm(
        *("install", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values),
        *("--dry-run=client", "--output=json"),
    )
    assert done.returncode == 0, done.stderr
    release = json.loads(done.stdout)
    manifests = [release["manifest"], *(hook["manifest"] for hook in release.get("hooks", []))]
    shown = [name(one) for manifest in manifests for one in objects(manifest)]
    assert sorted(shown) == sorted(name(one) for one in rendered(values))
    assert "helm test" in release["info"]["notes"]


def test_rendering_twice_gives_the_same_text() -> None:
    assert template(CPU).stdout == template(CPU).stdout


@each_helm
def test_a_package_renders_as_the_folder_does(tmp_path: Path, major: int) -> None:
    done = helm("package", CHART, "--destination", tmp_path, major=major)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.iterdir()
    done = helm("template", RELEASE, package, "--namespace", NAMESPACE, "--values", CPU, major=major)
    assert objects(done.stdout) == rendered(CPU)
