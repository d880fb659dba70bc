"""Shutting down: a real process, real signals. No accepted request is lost without an answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import until
from tests.service.gateway.scripted_upstream import Hold, Release, Script

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parents[3]
PROGRAM = "from service.gateway.server import serve; from service.gateway.settings import Settings; serve(Settings())"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def process(upstream_url=None, **settings):
    """A gateway in a process of its own, ready. Without a runtime, `config` says where they are."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AERIE_")}
    environment |= {f"AERIE_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"AERIE_PORT": str(port), "AERIE_PROBE_INTERVAL_S": "0.05"}
    if upstream_url is not None:
        environment["AERIE_UPSTREAM"] = upstream_url
    running = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            until(lambda: answers(client), "the process's readiness")
            yield running, client
    finally:
        running.kill()
        running.communicate()


def answers(client):
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


class Streaming(threading.Thread):
    """A client in the middle of a stream."""

    def __init__(self, url, chat):
        super().__init__(daemon=True)
        self.url, self.chat, self.began, self.content = url, chat, threading.Event(), b""
        self.start()

    def run(self):
        body = self.chat | {"stream": True}
        with (
            suppress(httpx.TransportError),  # it may be cut off
            httpx.Client(base_url=self.url, timeout=30) as client,
            client.stream("POST", CHAT, json=body) as response,
        ):
            for data in response.iter_raw():
                self.content += data
                self.began.set()


@pytest.fixture
def held(upstream):
    """The runtime streams one chunk and then waits."""
    upstream.script = Script(steps=[wire.chunk("a", "Red"), Hold()])
    return upstream


def test_an_idle_gateway_ends_well_on_ctrl_c(upstream):
    with process(upstream.url) as (running, _):
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0


def test_a_running_stream_may_finish_within_the_drain_time(upstream, chat):
    with process(upstream.url, drain_timeout_s=20) as (running, client):
        release = Release()
        upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.chunk("a", " end"), wire.DONE])
        stream = Streaming(client.base_url, chat)
        assert stream.began.wait(20)
        running.send_signal(signal.SIGTERM)
        until(lambda: refused(client), "the closed listener")
        release.now.set()
        stream.join(20)
        assert running.wait(20) == 0
        assert stream.content.endswith(wire.chunk("a", " end") + wire.DONE)


def test_a_stream_that_outlives_the_drain_time_ends_with_an_error_event(held, chat):
    with process(held.url, drain_timeout_s=0.3) as (running, client):
        stream = Streaming(client.base_url, chat)
        assert stream.began.wait(20)
        running.send_signal(signal.SIGTERM)
        stream.join(20)
        assert running.wait(20) == 0
        last = stream.content.strip().split(b"\n\n")[-1]
        assert last.startswith(b"event: error\n")
        assert json.loads(last.partition(b"data: ")[2])["error"]["code"] == "shutting_down"
        assert held.aborted == [held.generated[0]["rid"]]


def test_a_request_that_outlives_the_drain_time_is_a_503(upstream, chat):
    upstream.script = Script(before_head=Hold())
    with process(upstream.url, drain_timeout_s=0.3) as (running, client):
        answers_ = []
        ask = threading.Thread(target=lambda: answers_.append(client.post(CHAT, json=chat)), daemon=True)
        ask.start()
        until(lambda: upstream.generated)
        running.send_signal(signal.SIGTERM)
        ask.join(20)
        assert answers_[0].status_code == 503
        assert answers_[0].json()["error"]["code"] == "shutting_down"
        assert running.wait(20) == 0


def test_the_notice_serves_on_with_readiness_off_and_a_second_signal_ends_at_once(upstream, chat):
    with process(upstream.url, drain_notice_s=600, drain_timeout_s=600) as (running, client):
        running.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").json().get("reason") == "The gateway is draining.")
        assert client.post(CHAT, json=chat).is_success
        assert client.get("/healthz").headers["connection"] == "close", "the next one is to go to another gateway"
        upstream.script = Script(steps=[wire.chunk("a", "Red"), Hold()])
        assert Streaming(client.base_url, chat).began.wait(20)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM


def test_a_process_with_an_unknown_variable_does_not_start(upstream):
    environment = os.environ | {"AERIE_TYPO": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"AERIE_TYPO" in done.stderr


def refused(client):
    try:
        httpx.get(f"{client.base_url}/healthz", timeout=5)
    except httpx.TransportError:
        return True
    return False
