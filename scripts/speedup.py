"""Speculation against its own baseline on this machine: two servers, the same prompts, interleaved rounds.

`make speedup` starts `aerie runtime` with and without speculation and lets them answer in turns (the one that waits
sleeps), so that a machine that drifts drifts for both. Prints one Markdown row per batch size and one JSON line with
provenance. Speedup is the median over the rounds of the ratio of decode throughputs; tau is 1 + correct / verify.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.speculation import acceptance_length
from tests.e2e.servers import Server, aerie, chatml, prompts

Round = tuple[float, int, int]


def measure(server: Server, texts: list[str], batch_size: int, tokens: int) -> Round:
    """Tokens per second of one pass over the prompts, so many at a time; correct drafts and verify passes."""
    started = time.perf_counter()
    with ThreadPoolExecutor(batch_size) as pool:
        answers = list(pool.map(lambda text: server.generate(text, max_new_tokens=tokens), texts))
    seconds = time.perf_counter() - started
    meta = [answer["meta_info"] for answer in answers]
    correct = sum(one.get("spec_num_correct_drafts") or 0 for one in meta)
    return (
        sum(one["completion_tokens"] for one in meta) / seconds,
        correct,
        sum(one.get("spec_verify_ct") or 0 for one in meta),
    )


def compare(speculative: Server, plain: Server, batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds at one batch size."""
    texts = [chatml(prompt) for prompt in prompts()][: options.prompts]
    for server in (speculative, plain):
        measure(server, texts[:batch_size], batch_size, 8)
    rounds = []
    for number in range(options.rounds):
        pair = [speculative, plain] if number % 2 else [plain, speculative]
        done = {server: measure(server, texts, batch_size, options.tokens) for server in pair}
        rounds.append((done[speculative], done[plain]))
    ratios = [ours[0] / theirs[0] for ours, theirs in rounds]
    return {
        "batch_size": batch_size,
        "plain_tokens_per_s": round(statistics.median(theirs[0] for _, theirs in rounds), 1),
        "speculative_tokens_per_s": round(statistics.median(ours[0] for ours, _ in rounds), 1),
        "speedup": round(statistics.median(ratios), 2),
        "speedup_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "acceptance_length": round(acceptance_length(sum(o[1] for o, _ in rounds), sum(o[2] for o, _ in rounds)), 2),
    }


def provenance() -> dict[str, str]:
    """What the figures were measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False)  # noqa: S607
    model = next(
        (line.partition(":")[2].strip() for line in cpu.stdout.splitlines() if line.startswith("Model name")), "?"
    )
    return {
        "command": " ".join([f"python -m scripts.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "sglang": version("sglang"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "cpu": model,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speculation against its own baseline on this machine.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    options, runtime_arguments = parser.parse_known_args()
    with aerie("runtime", "--no-speculation") as plain, aerie("runtime", *runtime_arguments) as speculative:
        rows = [compare(speculative, plain, batch_size, options) for batch_size in options.batch_sizes]
    print("| batch size | plain tok/s | EAGLE-3 tok/s | speedup (range) | acceptance length |\n|---|---|---|---|---|")
    for row in rows:
        low, high = row["speedup_range"]
        figures = (row["batch_size"], row["plain_tokens_per_s"], row["speculative_tokens_per_s"])
        print(
            "|", " | ".join(map(str, figures)), f"| {row['speedup']} ({low} to {high}) | {row['acceptance_length']} |"
        )
    print(json.dumps({"rows": rows, **provenance()}))


if __name__ == "__main__":
    main()
