"""Real servers for the tests: the `aerie` command as a user starts it, on free ports, ended by pid."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from loadtest.launch import free_port

ROOT = Path(__file__).parents[2]
BUDGET_S = 300
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def prompts() -> list[str]:
    """The bundled prompts, or those of the folder EVAL_PROMPTS names (JSONL with `turns`), five from each file."""
    folder = os.environ.get("EVAL_PROMPTS")
    if folder is None:
        lines = (ROOT / "tests" / "data" / "prompts.jsonl").read_text().splitlines()
        return [json.loads(line)["prompt"] for line in lines]
    files = sorted(Path(folder).glob("*.jsonl"))
    return [json.loads(line)["turns"][0] for file in files for line in file.read_text().splitlines()[:5]]


def chatml(prompt: str) -> str:
    """The prompt as SmolLM2's chat template writes it."""
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


class Server:
    """A started `aerie` command."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, runtime_port: int, log: Path) -> None:
        self.process, self.port, self.runtime_port, self.log = process, port, runtime_port, log
        self.url = f"http://127.0.0.1:{port}"
        self.runtime_url = f"http://127.0.0.1:{runtime_port}"
        self.client = httpx.Client(timeout=300, trust_env=False)

    def wait(self, url: str) -> None:
        """Until the URL answers 200; the log is shown if it never does."""
        deadline = time.monotonic() + BUDGET_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get(url).status_code == httpx.codes.OK:
                    return
            time.sleep(0.2)
        raise AssertionError(f"not ready at {url}:\n{self.log.read_text()[-4000:]}")

    def generate(self, text: str, body: Mapping[str, object] | None = None, **sampling: object) -> dict[str, Any]:
        """SGLang's own /generate: token ids and meta_info. Greedy unless told otherwise."""
        asked = {"text": text, "sampling_params": {"temperature": 0, "max_new_tokens": 32, **sampling}, **(body or {})}
        answer = self.client.post(f"{self.runtime_url}/generate", json=asked)
        assert answer.status_code == httpx.codes.OK, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def generate_all(self, texts: Sequence[str], at_once: int, **sampling: object) -> list[list[int]]:
        """Token ids for every text, so many requests in flight at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            return [answer["output_ids"] for answer in pool.map(lambda text: self.generate(text, **sampling), texts)]

    def metric(self, name: str, url: str | None = None) -> float:
        """The sum of a metric's samples; 0 if there are none."""
        lines = self.client.get(f"{url or self.runtime_url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " ")))

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Signal the command and wait for its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def aerie(command: str, *arguments: str) -> Iterator[Server]:
    """`aerie up` or `aerie runtime` with further arguments, ready to serve; ended with the block."""
    port, runtime_port = free_port(), free_port()
    ports = ["--runtime-port", str(runtime_port), *(["--port", str(port)] if command == "up" else [])]
    with tempfile.NamedTemporaryFile(prefix="aerie-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", command, *ports, *arguments], cwd=ROOT, stdout=log, stderr=log
        )
        server = Server(process, port, runtime_port, Path(log.name))
        try:
            server.wait(f"{server.url}/readyz" if command == "up" else f"{server.runtime_url}/ready")
            yield server
        finally:
            server.client.close()
            if process.poll() is None:
                server.stop()


@contextlib.contextmanager
def gateway(runtime: Server, *arguments: str, **environment: str) -> Iterator[str]:
    """An `aerie gateway` of its own before a runtime, ready; its URL. It has ended when the block has."""
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "gateway", "--port", str(port), *arguments]
    with tempfile.NamedTemporaryFile(prefix="aerie-", suffix=".log") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            runtime.wait(f"{url}/readyz")
            yield url
        finally:
            process.terminate()
            process.wait(60)
