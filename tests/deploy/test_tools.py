"""How Prometheus comes onto a machine."""

import subprocess
from pathlib import Path

import pytest

from scripts import tools


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on PATH and nothing in the cache."""
    monkeypatch.setenv("AERIE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
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
    prometheus, browser = capsys.readouterr().err.splitlines()
    assert prometheus.startswith(f"aerie: {tools.UNAVAILABLE}: apt-get -o ")
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
