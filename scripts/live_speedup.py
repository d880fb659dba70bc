"""Does the gateway's live speedup say what a paired measurement says? Both at once, on this machine.

`make live-speedup`, at each batch size: calibrates the two runtimes (`aerie-bench calibrate`), puts a gateway with that
calibration before the one that speculates, and lets both answer the same prompts in turns under a steady load. Offline:
the median ratio of the client's throughputs, round by round. Live: the gateway's counters over the same rounds, against
the calibration that was measured before them. The exit status is 1 where they differ by more than 5%. `counted / seen`
is the counters' throughput over the client's, which no drift between calibration and rounds can move.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest import closed_loop, prompts, window
from loadtest.client import Client, Sampling
from scripts.speedup import provenance
from tests.e2e.servers import ROOT, Server, aerie, gateway

MODEL = "smollm2-135m-instruct"
PASSES = 3
AGREEMENT = 0.05
"""Live and paired figures may differ by this much; else the exit status is 1."""


def calibrate(plain: Server, speculative: Server, batch_size: int, file: Path) -> None:
    """As an operator does, at one batch size: a machine drifts less in two minutes than in ten."""
    command = [sys.executable, "-m", "loadtest.cli", "calibrate", "--baseline", plain.runtime_url]
    command += ["--speculative", speculative.runtime_url, "--batch-sizes", str(batch_size)]
    subprocess.run([*command, "--allow-noise", "--output", str(file)], cwd=ROOT, check=True)


def counted(url: str, batch_size: int) -> dict[str, float]:
    """The gateway's counters of one batch size."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("aerie_batch_") and sample.labels.get("batch_size") == str(batch_size)
    }


async def throughput(url: str, runtime: Server, batch_size: int) -> float:
    """Tokens per second of a steady load, as a client sees it; the runtime has forgotten every prompt."""
    runtime.client.post(f"{runtime.runtime_url}/flush_cache")
    async with Client(url, api_key=None, timeout_s=120) as client:
        sampling, bounds = Sampling(MODEL, 64, token_counts=True), closed_loop.Bounds(batch_size, PASSES)
        run = await closed_loop.run(
            lambda prompt: client.chat(prompt.messages, sampling), prompts.load(None).prompts, bounds
        )
        return window.figures(run).tokens_per_s


def compare(url: str, plain: Server, speculative: Server, batch_size: int, rounds: int) -> dict[str, float]:
    """Interleaved rounds at one batch size."""
    seen, ratios, before = [], [], counted(url, batch_size)
    for _ in range(rounds):
        baseline = asyncio.run(throughput(plain.runtime_url, plain, batch_size))
        seen.append(asyncio.run(throughput(url, speculative, batch_size)))
        ratios.append(seen[-1] / baseline)
    grew = {name: value - before.get(name, 0) for name, value in counted(url, batch_size).items()}
    live = grew["aerie_batch_calibrated_tokens_total"] / grew["aerie_batch_baseline_tokens_total"]
    per_s = grew["aerie_batch_completion_tokens_total"] / grew["aerie_batch_busy_seconds_total"]
    offline = statistics.median(ratios)
    figures = {
        "offline": offline,
        "low": min(ratios),
        "high": max(ratios),
        "live": live,
        "live/offline": live / offline,
        "counted/seen": per_s / statistics.fmean(seen),
    }
    return {"batch_size": batch_size, **{name: round(value, 3) for name, value in figures.items()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The gateway's live speedup against a paired measurement.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    options, runtime_arguments = parser.parse_known_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        aerie("runtime", "--no-speculation") as plain,
        aerie("runtime", *runtime_arguments) as speculative,
    ):
        file, rows = Path(folder) / "curve.json", []
        for batch_size in options.batch_sizes:
            calibrate(plain, speculative, batch_size, file)
            with gateway(speculative, "--upstream", speculative.runtime_url, AERIE_CALIBRATION=str(file)) as url:
                rows.append(compare(url, plain, speculative, batch_size, options.rounds))
    print("| batch size | paired speedup (range) | live speedup | live / paired | counted / seen tok/s |")
    print("|---|---|---|---|---|")
    for row in rows:
        paired = f"{row['offline']} ({row['low']} to {row['high']})"
        print(f"| {row['batch_size']} | {paired} | {row['live']} | {row['live/offline']} | {row['counted/seen']} |")
    print(json.dumps({"rows": rows, **provenance()}))
    sys.exit(any(abs(row["live/offline"] - 1) > AGREEMENT for row in rows))


if __name__ == "__main__":
    main()
