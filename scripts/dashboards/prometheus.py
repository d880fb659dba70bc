"""A real Prometheus with the chart's rules: starting one on loopback, and asking any.

Owns the process, its configuration and Grafana's variables as a query needs them. Refuses to own where the executables
come from (scripts/tools.py) and what is asked.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from loadtest.launch import free_port
from scripts import tools

RULES = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "aerie" / "rules"
READY_S = 60
STOP_S = 30


class AskError(Exception):
    """Prometheus did not answer a query; the message is its own."""


class Series(NamedTuple):
    """Labels, and the points in time with their values."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


def resolve(expr: str, rate_interval: str) -> str:
    """A dashboard's query as Grafana sends it when all pools are chosen."""
    for variable, value in {"$__rate_interval": rate_interval, "$namespace": ".*", "$pool": ".*"}.items():
        expr = expr.replace(variable, value)
    return expr


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def now(self, expr: str) -> list[Series]:
        """What it has at this moment."""
        found = self._ask("query", query=expr)
        if found["resultType"] == "scalar":
            return [Series({}, [_point(found["result"])])]
        return [Series(one["metric"], [_point(one["value"])]) for one in found["result"]]

    def between(self, expr: str, start: float, end: float, step_s: float) -> list[Series]:
        """What it had, at every step."""
        found = self._ask("query_range", query=expr, start=start, end=end, step=step_s)
        return [Series(one["metric"], [_point(point) for point in one["values"]]) for one in found["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **parameters: str | float) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=60, trust_env=False).json()
        if answer["status"] != "success":
            raise AskError(f"{answer['error']}: {parameters.get('query', what)}")
        data: dict[str, Any] = answer["data"]
        return data


def _point(given: list[Any]) -> tuple[float, float]:
    return float(given[0]), float(given[1])


@contextlib.contextmanager
def running(folder: Path, jobs: Mapping[str, list[str]]) -> Iterator[Prometheus]:
    """Scrape these `host:port` by job, once a second, and evaluate the chart's rules as often; ended with the block.

    Raises:
        tools.ToolsError: there is no Prometheus to be had.
        TimeoutError: it did not become ready.
    """
    executable = tools.find().prometheus
    port = free_port()
    command = [
        str(executable),
        f"--config.file={_configure(folder, jobs)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if not _ready(f"http://127.0.0.1:{port}/-/ready", process):
                raise TimeoutError(f"Prometheus is not ready: {(folder / 'prometheus.log').read_text()}")
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(STOP_S)


def _configure(folder: Path, jobs: Mapping[str, list[str]]) -> Path:
    """JSON is YAML. The rules are the chart's; a group with an interval of its own becomes as fast as the others."""
    for source in RULES.glob("*.yaml"):
        (folder / source.name).write_text(source.read_text().replace("interval: 1m", "interval: 1s"))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [source.name for source in RULES.glob("*.yaml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in jobs.items()
        ],
    }
    path = folder / "prometheus.json"
    path.write_text(json.dumps(config))
    return path


def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return True
        time.sleep(0.2)
    return False
