"""The containers that fetch a model, started as rendered: whole and checked or not at all, whoever else tries.

`hf` and `rclone` are scripts here: what they fetch is said by the test. The last test asks the real `hf`.
"""

import hashlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy.chart.machine import Container, place
from tests.deploy.chart.pods import RUNTIME, of_component
from tests.deploy.chart.render import H100, rendered

WEIGHTS = "weights"
SUM = hashlib.sha256(f"{WEIGHTS}\n".encode()).hexdigest()
SOURCES = {
    "hub": {"type": "hub", "location": "org/model", "revision": "abc", "sha256": {"model.safetensors": SUM}},
    "s3": {"type": "s3", "location": "s3://bucket/model", "sha256": {"model.safetensors": SUM}},
}
FETCHES = {"hub": "hf download", "s3": "rclone copy"}
CHECKS = {"hub": "hf cache verify", "s3": "rclone check"}


class Fetch:
    """One container, with the program that it calls, whose every call is kept."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        (pod, *_) = of_component(found := rendered(H100, sets=(f"model.source={json.dumps(SOURCES[kind])}",)), RUNTIME)
        (container,) = [one for one in pod.spec["initContainers"] if one["name"] == "fetch-target"]
        self.container = place(found, pod, container, folder, {})
        self.destination = Path(self.container.env["DEST"])
        self._write("sleep", f'echo "$1" >> {folder}/waits')
        self.program(f"echo {WEIGHTS} > $DEST/model.safetensors")

    def program(self, does: str) -> None:
        """What the first of its two calls does."""
        name = FETCHES[self.kind].split()[0]
        self._write(name, f'echo "{name} $*" >> {self.folder}/calls\ncase "$1" in download|copy) {does};; esac')

    def _write(self, name: str, does: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}/bin{os.pathsep}{self.container.env['PATH']}"
        return Container(self.container.command, {**self.container.env, "PATH": path}, self.folder, 0).run()

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    @property
    def waits(self) -> list[str]:
        return (self.folder / "waits").read_text().split()

    @property
    def is_whole(self) -> bool:
        return (self.destination / ".complete").exists()


@pytest.fixture(params=SOURCES)
def fetch(request: pytest.FixtureRequest, tmp_path: Path) -> Fetch:
    return Fetch(tmp_path, request.param)


def test_a_model_is_fetched_then_checked_then_marked(fetch: Fetch) -> None:
    done = fetch.run()
    assert done.returncode == 0, done.stderr
    assert [
        call.startswith(word) for call, word in zip(fetch.calls, (FETCHES[fetch.kind], CHECKS[fetch.kind]), strict=True)
    ]
    assert fetch.is_whole


def test_what_is_there_is_not_fetched_again(fetch: Fetch) -> None:
    fetch.run()
    fetch.run()
    assert len(fetch.calls) == 2


def test_pods_that_start_together_fetch_once(fetch: Fetch) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: fetch.run(), range(4)))
    assert [one.returncode for one in done] == [0] * 4
    assert len(fetch.calls) == 2


def test_a_fetch_that_is_cut_off_goes_on_where_it_was(fetch: Fetch) -> None:
    fetch.program("touch $DEST/half; exit 1")
    assert fetch.run().returncode != 0
    assert not fetch.is_whole
    fetch.program(f"test -e $DEST/half && echo {WEIGHTS} > $DEST/model.safetensors")
    assert fetch.run().returncode == 0
    assert fetch.is_whole


def test_a_fetch_that_fails_once_is_tried_again_before_the_container_ends(fetch: Fetch) -> None:
    fetch.program(f"test -e $DEST/half || {{ touch $DEST/half; exit 1; }}; echo {WEIGHTS} > $DEST/model.safetensors")
    assert fetch.run().returncode == 0
    assert fetch.is_whole
    assert (len(fetch.waits), len(fetch.calls)) == (1, 3)


def test_a_fetch_that_always_fails_is_given_up(fetch: Fetch) -> None:
    fetch.program("exit 1")
    assert fetch.run().returncode != 0
    assert (len(fetch.waits), len(fetch.calls)) == (3, 4)
    assert sum(map(int, fetch.waits)) <= 120


def test_a_file_with_another_hash_is_never_served(fetch: Fetch) -> None:
    fetch.program("echo other > $DEST/model.safetensors")
    done = fetch.run()
    assert done.returncode != 0
    assert "model.safetensors: FAILED" in done.stdout
    assert not fetch.is_whole


def test_the_hub_is_asked_for_a_revision_without_what_is_excluded(tmp_path: Path) -> None:
    fetch = Fetch(tmp_path, "hub")
    fetch.run()
    download, verify = fetch.calls
    assert "download org/model" in download
    assert "--revision abc --exclude original/* --exclude *.pth" in download
    assert "cache verify org/model" in verify


def test_another_revision_is_another_folder(tmp_path: Path) -> None:
    def folder(revision: str) -> str:
        source = json.dumps({"type": "hub", "location": "org/model", "revision": revision})
        (pod, *_) = of_component(rendered(H100, sets=(f"model.source={source}",)), RUNTIME)
        return next(one["value"] for one in pod.spec["initContainers"][0]["env"] if one["name"] == "DEST")

    assert folder("abc") != folder("abd")
    assert folder("abc") == folder("abc")


def test_the_real_hf_understands_what_it_is_told(tmp_path: Path) -> None:
    """It then finds nobody at this address."""
    fetch = Fetch(tmp_path, "hub")
    (fetch.folder / "bin/hf").unlink()
    nowhere = {
        "PATH": f"{tmp_path}/bin{os.pathsep}{fetch.container.env['PATH']}",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = Container(fetch.container.command, {**fetch.container.env, **nowhere}, tmp_path, 0).run()
    assert done.returncode == 1
    assert "No such option" not in done.stderr
    assert "127.0.0.1" in done.stderr or "connect" in done.stderr.lower()
    assert not fetch.is_whole
