"""Does the gateway's live speedup say what a paired measurement says? Both of the same load, on this machine.

`make live-speedup`, at each batch size, round by round: measures the baseline (`aerie-bench calibrate`), puts a gateway
with that calibration before the runtime that speculates, and asks through it under a steady load. Paired: the client's
throughput in its steady window over the baseline's just before. Live: what the gateway's counters grew by between two
scrapes in that window, as Prometheus reads them. Both rest on one baseline and one load, so a machine that drifts moves
both alike; what is left is the gateway's accounting, and only that is checked: whether a calibration still holds is
another question. The exit status is 1 where they differ by more than 5%.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest import closed_loop, prompts, window
from loadtest.client import Client, Sampling
from scripts.provenance import provenance
from service.gateway.batches import LABELS, bucket
from tests.e2e.servers import ROOT, Server, aerie, gateway

MODEL = "smollm2-135m-instruct"
PASSES = 8
SCRAPE_S = 0.5
AGREEMENT = 0.05
"""Live and paired figures may differ by this much; else the exit status is 1."""


class Scrape(NamedTuple):
    """When, and the counters of one batch size."""

    at_s: float
    counters: dict[str, float]


class Round(NamedTuple):
    """One load, both figures."""

    paired: float
    live: float


def calibrate(plain: Server, batch_size: int, file: Path) -> float:
    """As an operator does; the baseline's tokens per second."""
    command = [sys.executable, "-m", "loadtest.cli", "calibrate", "--baseline", plain.runtime_url, "--rounds", "2"]
    command += ["--batch-sizes", str(batch_size), "--allow-noise", "--output", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (point,) = json.loads(file.read_text())["baseline"]
    tokens_per_s: float = point["tokens_per_s"]
    return tokens_per_s


async def scrape_for_ever(url: str, batch_size: int, scrapes: list[Scrape]) -> None:
    """The gateway's counters of one batch size, again and again."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while True:
            text = (await client.get(f"{url}/metrics")).text
            samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
            ours = {s.name: s.value for s in samples if s.labels.get("batch_size") == LABELS[bucket(batch_size)]}
            scrapes.append(Scrape(time.perf_counter(), ours))
            await asyncio.sleep(SCRAPE_S)


async def load(url: str, runtime: Server, batch_size: int) -> tuple[closed_loop.Run, list[Scrape]]:
    """A steady load on a runtime that has forgotten every prompt, scraped all along."""
    runtime.client.post(f"{runtime.runtime_url}/flush_cache")
    scrapes: list[Scrape] = []
    watching = asyncio.create_task(scrape_for_ever(url, batch_size, scrapes))
    async with Client(url, api_key=None, timeout_s=120) as client:
        sampling, bounds = Sampling(MODEL, 64, token_counts=True), closed_loop.Bounds(batch_size, PASSES)
        run = await closed_loop.run(
            lambda prompt: client.chat(prompt.messages, sampling), prompts.load(None).prompts, bounds
        )
    if watching.done():
        watching.result()  # raises what ended it
    watching.cancel()
    return run, scrapes


def measure(plain: Server, speculative: Server, batch_size: int, file: Path) -> Round:
    """One round."""
    baseline = calibrate(plain, batch_size, file)
    with gateway(speculative, "--upstream", speculative.runtime_url, AERIE_CALIBRATION=str(file)) as url:
        run, scrapes = asyncio.run(load(url, speculative, batch_size))
    seen, (start_s, end_s) = window.figures(run).tokens_per_s, run.window()
    within = [scrape.counters for scrape in scrapes if start_s <= scrape.at_s <= end_s]
    grew = {name: value - within[0].get(name, 0) for name, value in within[-1].items()} if within else {}
    if not grew.get("aerie_batch_baseline_tokens_total"):
        sys.exit(f"batch size {batch_size}: no answer was counted between two scrapes within {end_s - start_s:.1f} s")
    live = grew["aerie_batch_calibrated_tokens_total"] / grew["aerie_batch_baseline_tokens_total"]
    found = Round(seen / baseline, live)
    print(f"batch size {batch_size}: paired {found.paired:.3f}, live {found.live:.3f}", file=sys.stderr)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The gateway's live speedup against a paired measurement.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options, runtime_arguments = parser.parse_known_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        aerie("runtime", "--no-speculation") as plain,
        aerie("runtime", *runtime_arguments) as speculative,
    ):
        for batch_size in options.batch_sizes:
            file = Path(folder) / "curve.json"
            rounds = [measure(plain, speculative, batch_size, file) for _ in range(options.rounds)]
            ratios = [each.live / each.paired for each in rounds]
            medians = {name: statistics.median(getattr(each, name) for each in rounds) for name in Round._fields}
            ranges = {"live/paired": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            rows.append(
                {name: round(value, 3) for name, value in (medians | ranges).items()} | {"batch_size": batch_size}
            )
    print("| batch size | paired speedup | live speedup | live / paired (range) |")
    print("|---|---|---|---|")
    for row in rows:
        ratio = f"{row['live/paired']} ({row['low']} to {row['high']})"
        print(f"| {row['batch_size']} | {row['paired']} | {row['live']} | {ratio} |")
    print(json.dumps({"rows": rows, **provenance()}))
    sys.exit(any(abs(row["live/paired"] - 1) > AGREEMENT for row in rows))


if __name__ == "__main__":
    main()
