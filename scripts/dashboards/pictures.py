"""The pictures in docs/dashboards: real runtimes, a real gateway, a real Prometheus, some minutes of load.

Starts SGLang with and without speculation, calibrates one against the other, lets clients ask in waves, and draws every
dashboard. Owns that course of things; what is asked and drawn are the dashboards' own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from scripts.dashboards.__main__ import DASHBOARDS, FOLDER
from scripts.dashboards.prometheus import running
from scripts.dashboards.render import Window, render
from tests.e2e.servers import ROOT, Server, aerie, gateway, prompts

TARGET = ROOT / "docs" / "dashboards"
WAVES = (1, 4, 8, 2)
"""Clients at a time."""
MODEL = "smollm2-135m-instruct"


def calibrate(plain: Server, speculative: Server, curve: Path) -> None:
    """As a user does it, with fewer rounds."""
    urls = ["--baseline", plain.runtime_url, "--speculative", speculative.runtime_url]
    quick = ["--batch-sizes", "1,4,8", "--rounds", "2", "--passes", "1", "--max-tokens", "32", "--allow-noise"]
    command = [sys.executable, "-m", "loadtest.cli", "calibrate", *urls, *quick, "--output", str(curve)]
    subprocess.run(command, cwd=ROOT, check=True)


def configuration(speculative: Server, plain: Server, curve: Path) -> str:
    """A draft, the same draft again as a canary, and a baseline with a large share so that minutes suffice."""
    draft = f"kind: speculative, replicas: ['{speculative.runtime_url}'], calibration: {curve}, max_in_flight: 6"
    return f"""
pools:
- {{name: eagle, version: v1, {draft}}}
- {{name: eagle-next, version: v2, weight: 0.3, {draft}}}
- {{name: plain, kind: baseline, replicas: ['{plain.runtime_url}']}}
policy: {{baseline_share: 0.25}}
tasks: [chat, code]
"""


def ask(url: str, number: int) -> None:
    """A request, streamed; some come with a long prompt, some clients leave."""
    text = prompts()[number % len(prompts())]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text * 6 if number % 5 == 0 else text}],
        "max_tokens": 64,
        "temperature": 0,
        "stream": True,
    }
    headers = {"x-aerie-task": ("chat", "code", "poem")[number % 3]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=300) as answer:
        for _ in answer.iter_lines():
            if number % 17 == 5:
                return


def load(url: str, minutes: float) -> None:
    """Waves of clients, each as long as the others."""
    numbers = iter(range(1_000_000))
    for clients in WAVES:
        ends = time.monotonic() + 60 * minutes / len(WAVES)
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(_client, url, numbers, ends) for _ in range(clients)]:
                done.result()


def _client(url: str, numbers: Iterator[int], ends: float) -> None:
    while time.monotonic() < ends:
        ask(url, next(numbers))


def main() -> None:
    """Start, ask, draw."""
    parser = argparse.ArgumentParser(description="Draw the dashboards for docs/ with real data.")
    parser.add_argument("--minutes", type=float, default=4, help="of load (4)")
    minutes = parser.parse_args().minutes
    with (
        tempfile.TemporaryDirectory() as scratch,
        aerie("runtime") as speculative,
        aerie("runtime", "--no-speculation") as plain,
    ):
        folder = Path(scratch)
        calibrate(plain, speculative, folder / "curve.json")
        config = folder / "gateway.yaml"
        config.write_text(configuration(speculative, plain, folder / "curve.json"))
        runtimes = [f"127.0.0.1:{server.runtime_port}" for server in (speculative, plain)]
        with (
            gateway(speculative, "--config", str(config)) as url,
            running(folder, {"aerie": [url.removeprefix("http://")], "sglang": runtimes}) as prometheus,
        ):
            started = time.time()
            load(url, minutes)
            window = Window(started, time.time())
            for name in DASHBOARDS:
                render(prometheus, FOLDER / f"{name}.json", TARGET / f"{name}.png", window)


if __name__ == "__main__":
    main()
