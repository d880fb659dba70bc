"""Runtimes that are started for a measurement. The `aerie` here is a script of the test's: only the process matters."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest

from loadtest.errors import EndpointError
from loadtest.launch import Endpoint, started

PROGRAM = """#!{python}
import http.server, os, signal, sys
folder = {folder!r}
open(folder + "/argv", "w").write(" ".join(sys.argv[1:]))
if "--broken" in sys.argv:
    print("aerie: no such draft")
    sys.exit(1)
def end(*_):
    open(folder + "/ended", "w").write("by itself")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--runtime-port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    path = tmp_path / "aerie"
    path.write_text(PROGRAM.format(python=sys.executable, folder=str(tmp_path)))
    path.chmod(0o755)
    monkeypatch.setattr("loadtest.launch.program", lambda: str(path))
    return tmp_path


def run(text, profile=None, within=lambda url: None):
    async def measure():
        async with started(Endpoint.parse(text), profile, lambda line: None) as url:
            within(url)
            return url

    return asyncio.run(measure())


def test_a_runtime_is_ready_within_the_block_and_ended_after_it(program):
    url = run("speculation --num-steps 2", "h100", lambda url: httpx.get(f"{url}/ready").raise_for_status())
    argv = (program / "argv").read_text()
    assert argv == f"runtime --runtime-port {url.rpartition(':')[2]} --profile h100 --num-steps 2"
    assert (program / "ended").read_text() == "by itself"


def test_a_baseline_is_started_without_speculation(program):
    run("baseline")
    assert (program / "argv").read_text().endswith("--no-speculation")


def test_a_failure_within_the_block_ends_the_runtime_too(program):
    def fail(url):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("speculation", within=fail)
    assert (program / "ended").exists()


def test_a_runtime_that_does_not_start_is_one_line_with_its_last_words(program):
    with pytest.raises(EndpointError, match="ended with status 1: aerie: no such draft"):
        run("speculation --broken")


def test_an_endpoint_that_runs_is_left_as_it_is(program):
    assert run("http://127.0.0.1:1/v1") == "http://127.0.0.1:1"
    assert not (program / "argv").exists()


def test_without_the_command_there_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(Path(tmp_path) / "python"))
    with pytest.raises(EndpointError, match="no `aerie` command here"):
        run("speculation")
