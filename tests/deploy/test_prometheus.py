"""A real Prometheus, the real gateway, real SGLang: every query is answered, and finds what it asks for."""

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from loadtest.runtime import Runtime
from scripts.dashboards.prometheus import Prometheus, resolve, running
from scripts.dashboards.render import Window, render
from tests.deploy.queries import DASHBOARDS, Asked, everything, of_alerts
from tests.e2e.servers import Server, gateway, prompts

pytestmark = pytest.mark.e2e

LOAD_S = 25
WEEK = "looks at the week before"
NEVER = "counts what did not happen here"
OFF = "is off unless somebody turns it on"
WITHOUT_DATA = {
    "pool:aerie_spec_acceptance_length:ratio_rate1w_offset1h": WEEK,
    "service: Who is refused, and why? A": NEVER,
    "service: Which clients are cut off? A": NEVER,
    "fleet: Are requests sent twice? A": NEVER,
    "draft-quality: Does the draft fit as it did a week ago? B": WEEK,
    "draft-quality: Which tasks have drifted? A": WEEK,
    "draft-quality: Did speculation change an answer? A": OFF,
    "draft-quality: Is there fresh data to train on? A": OFF,
    "metric: aerie_connections_cut_total": NEVER,
    "metric: aerie_refusals_total": NEVER,
    "metric: aerie_upstream_retries_total": NEVER,
    "metric: aerie_losslessness_checks_total": OFF,
    "metric: aerie_capture_prompts_total": OFF,
    "runbook: AerieAcceptanceDropped": WEEK,
    "runbook: AerieLosslessnessMismatch": OFF,
    "runbook: AerieErrorBudgetBurnsFast": NEVER,
    "runbook: AerieErrorBudgetBurnsSlowly": NEVER,
    "runbook: AerieQueueRefuses": NEVER,
    "runbook: AerieUpstreamFlapping": NEVER,
    "runbook: AerieCalibrationInvalid": "a condition, true only if one is not valid",
    "runbook: AerieConfigStale": "a condition, true only if a file is broken",
    "runbook: AeriePoolDown": "a condition, true only if one is down",
    "runbook: AerieScrapeMissing": "a condition, true only if one is down",
}
CONDITIONS = {"runbook: AerieSpeculationSlowerThanBaseline", *(asked.where for asked in of_alerts())}
MAY_BE_EMPTY = {f"{path.stem}: annotation" for path in DASHBOARDS} | CONDITIONS


class Stack(NamedTuple):
    """What runs, and when its load began."""

    prometheus: Prometheus
    started: float


def curve(runtime: Server, folder: Path) -> Path:
    """A calibration that fits the runtime; its figures are made up, and nothing here asserts them."""
    info = runtime.client.get(f"{runtime.runtime_url}/server_info").json()
    models = runtime.client.get(f"{runtime.runtime_url}/v1/models").json()
    tree = Runtime.parse(runtime.runtime_url, info, models).tree
    path = folder / "curve.json"
    content = {
        "format": "aerie-baseline-curve/1",
        "created": datetime.now(UTC).isoformat(),
        "valid_for": {
            "model": models["data"][0]["id"],
            "sglang_version": info["version"],
            "device": info["device"],
            "hardware": "any",
            "flags": {"dtype": info["dtype"]},
        },
        "baseline": [{"batch_size": size, "tokens_per_s": 10.0 * size} for size in (1, 4)],
        "speculative": {
            "tree": tree,
            "points": [{"batch_size": size, "break_even_acceptance_length": 1.5 + size / 8} for size in (1, 2, 4)],
        },
    }
    path.write_text(json.dumps(content))
    return path


def configuration(runtime: Server, folder: Path) -> Path:
    """Pools of two drafts at one runtime, the second a canary as good as the first; their baseline is there too."""
    common = f"kind: speculative, replicas: ['{runtime.runtime_url}'], calibration: {curve(runtime, folder)}"
    path = folder / "gateway.yaml"
    path.write_text(
        f"pools:\n- {{name: eagle, version: v1, {common}}}\n- {{name: next, version: v2, weight: 0.5, {common}}}\n"
        f"- {{name: plain, kind: baseline, replicas: ['{runtime.runtime_url}']}}\n"
        "policy: {baseline_share: 0.4}\ntasks: [code, chat]\n"
    )
    return path


def ask(url: str, number: int) -> None:
    """One request; every third is streamed, every eleventh is left by its client."""
    question = prompts()[number % len(prompts())]
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": f"{number}. {question}"}],
        "max_tokens": 24,
        "stream": number % 3 == 0,
    }
    headers = {"x-aerie-task": "code" if number % 2 else "chat"}
    leaves = number % 11 == 5
    with contextlib.suppress(httpx.ReadTimeout):
        timeout = httpx.Timeout(120, read=0.4 if leaves else 120)
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=timeout, trust_env=False)
        assert answer.is_success, answer.text


def load(url: str) -> None:
    """Four clients for some seconds, and not before each kind of request was made more than once."""
    ends = time.monotonic() + LOAD_S
    numbers = iter(range(100_000))

    def client() -> None:
        for number in numbers:
            ask(url, number)
            if time.monotonic() > ends and number > 30:
                return

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(client) for _ in range(4)]:
            done.result()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("prometheus")
    with gateway(server, "--config", str(configuration(server, folder))) as url:
        jobs = {"aerie": [url.removeprefix("http://")], "sglang": [server.runtime_url.removeprefix("http://")]}
        with running(folder, jobs) as prometheus:
            started = time.time()
            load(url)
            time.sleep(3)  # a scrape, an evaluation of what it brought, and one of what that recorded
            yield Stack(prometheus, started)


def test_prometheus_scrapes_the_gateway_and_the_runtime(stack: Stack) -> None:
    assert {one.labels["job"] for one in stack.prometheus.now("up == 1")} == {"aerie", "sglang"}


def test_prometheus_evaluates_every_rule_without_an_error(stack: Stack) -> None:
    ill = {rule["name"]: rule.get("lastError") for rule in stack.prometheus.rules() if rule["health"] != "ok"}
    assert ill == {}


def answered(stack: Stack, asked: Asked) -> bool:
    """Whether there was an answer at any time of the load: a counter that stands still has a rate of nothing."""
    expr = resolve(asked.expr, rate_interval="15s")
    return any(stack.prometheus.between(expr, stack.started, time.time(), 1))


def test_every_query_that_must_find_something_does_and_no_other(stack: Stack) -> None:
    empty = {asked.where for asked in everything() if not answered(stack, asked)} - MAY_BE_EMPTY
    assert empty == set(WITHOUT_DATA)


def test_a_healthy_service_under_load_fires_no_alert(stack: Stack) -> None:
    assert stack.prometheus.now('ALERTS{alertstate="firing"}') == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_drawn_from_what_prometheus_has(stack: Stack, path: Path, tmp_path: Path) -> None:
    picture = tmp_path / f"{path.stem}.png"
    render(stack.prometheus, path, picture, Window(stack.started, time.time()))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
