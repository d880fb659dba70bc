"""Reports say where they come from, without saying where on whose machine."""

import json
import subprocess
from pathlib import Path

import pytest

from draft_models import provenance as module
from draft_models.errors import DataError
from draft_models.provenance import arguments, commit, file_sha256, hardware, provenance, relative


def test_a_path_under_the_working_directory_is_relative_to_it_and_of_others_the_name_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "runs" / "v1") == "runs/v1"
    assert relative("/somewhere/else/target") == ".../target"
    assert relative("runs/v1") == "runs/v1"
    argv = ["/venv/bin/aerie-draft", "evaluate", f"{tmp_path}/draft", f"--json={tmp_path}/a.json", "--tree", "3/4/8"]
    assert arguments(argv) == ["aerie-draft", "evaluate", "draft", "--json=a.json", "--tree", "3/4/8"]


def test_provenance_is_plain_json_and_names_the_hardware():
    found = json.loads(json.dumps(provenance()))
    assert found["hardware"] == hardware()
    assert "threads" in found["hardware"]
    assert found["versions"]["torch"]
    assert found["utc"].endswith("+00:00")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that holds the package."""

    def git(*command):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        return subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init", "--quiet")
    package = tmp_path / "draft_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module, "__file__", str(package / "provenance.py"))
    return package, git


def test_the_commit_is_the_codes_own_and_says_when_files_differ(checkout):
    package, git = checkout
    git("commit", "--quiet", "--allow-empty", "-m", "empty")
    assert commit() is None  # a checkout around an installed package is not the package's
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert commit() == head
    (package / "__init__.py").write_text("changed = True\n")
    assert commit() == f"{head}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert commit() is None


def test_a_digest_is_that_of_sha256sum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")
    with pytest.raises(DataError, match="missing"):
        file_sha256(Path(tmp_path / "missing"))
