"""How fast the CPU runtime is: plain decoding beside a bare loop, speculation beside plain decoding (`make bench-cpu`).

The bare loop (`scripts/bare_loop.py`) and the runtime take turns: seconds a token while one request decodes. Then each
way to draft is compared with plain decoding as `aerie-bench compare` does it, in turns, on every prompt file as a task.
A cycle over a step is tau over the speedup. Prints a table and, last, one JSON line.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from pathlib import Path

from service.runtime.cpu.serve import ENVIRONMENT

# Threads that wait as the runtime's do; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", ENVIRONMENT["OMP_WAIT_POLICY"])
os.environ.setdefault("GOMP_SPINCOUNT", ENVIRONMENT["GOMP_SPINCOUNT"])

import torch

from loadtest import compare
from loadtest.client import Client, Sampling
from loadtest.comparison import Cell, Comparison
from loadtest.launch import Endpoint, started
from loadtest.prompts import load
from scripts.bare_loop import BareLoop
from scripts.provenance import provenance
from service.runtime.cache import cache_dir
from service.runtime.model_source import EMBEDDED

DRAFTING = {
    "profile": "speculation",
    "3/1/4": "speculation --num-steps 3 --eagle-topk 1 --num-draft-tokens 4",
    "3/2/6": "speculation --num-steps 3 --eagle-topk 2 --num-draft-tokens 6",
    "3/4/8": "speculation --num-steps 3 --eagle-topk 4 --num-draft-tokens 8",
}
STEPS = 256


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


async def step_over_bare(rounds: int) -> dict[str, float]:
    """Milliseconds a token of plain decoding and of the bare loop, in turns, and the median of their ratios."""
    model = cache_dir() / "models" / EMBEDDED
    prompt = load(None).prompts[0]
    plain_s, bare_s = [], []
    async with (
        started(Endpoint.parse("baseline"), None, say) as url,
        Client(url, api_key=None, timeout_s=120) as client,
    ):
        bare = BareLoop(model, 2 * STEPS)
        for _ in range(rounds + 1):  # the first warms up
            request = await client.chat(prompt.messages, Sampling(EMBEDDED, STEPS, ignore_eos=True))
            if request.answer is None or request.tpot_s is None:
                raise SystemExit(f"bench_cpu: the runtime did not answer: {request.outcome}")
            plain_s.append(request.tpot_s)
            bare_s.append(bare.step_s(request.answer.prompt_tokens, STEPS))
            say(f"plain {1e3 * plain_s[-1]:.1f} ms a token, bare loop {1e3 * bare_s[-1]:.1f}")
    ratios = [plain / bare for plain, bare in zip(plain_s[1:], bare_s[1:], strict=True)]
    return {
        "plain_ms": 1e3 * statistics.median(plain_s[1:]),
        "bare_ms": 1e3 * statistics.median(bare_s[1:]),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def row(name: str, cell: Cell) -> dict[str, str | int | float]:
    """One way to draft, at one batch size of one task."""
    tau = cell.a.acceptance_length or 1.0
    return {
        "drafting": name,
        "task": cell.task,
        "batch_size": cell.batch_size,
        "plain_tokens_per_s": cell.b.tokens_per_s,
        "tokens_per_s": cell.a.tokens_per_s,
        "speedup": cell.speedup.value,
        "low": cell.speedup.low,
        "high": cell.speedup.high,
        "tau": tau,
        "cycle_over_step": round(tau / cell.speedup.value, 3),
    }


async def drafting(name: str, side: str, options: argparse.Namespace) -> Comparison:
    """One way to draft beside plain decoding."""
    plan = compare.Plan(
        side,
        "baseline",
        batch_sizes=tuple(options.batch_sizes),
        prompts=tuple(options.prompts),
        rounds=options.rounds,
        temperature=options.temperature,
        allow_noise=True,
        same_text=0,
    )
    outcome = await compare.compare(plan, ["bench_cpu", name], say)
    if outcome.failure is not None:
        raise SystemExit(f"bench_cpu: {outcome.failure}")
    return outcome.comparison


def report(bare: dict[str, float], comparisons: dict[str, Comparison]) -> None:
    """The table, and everything as one JSON line."""
    spread = f"{bare['ratio']:.2f} ({bare['low']:.2f} to {bare['high']:.2f})"
    print(f"plain step {bare['plain_ms']:.1f} ms, bare loop {bare['bare_ms']:.1f} ms, ratio {spread}\n")
    print("| drafting | task | batch size | plain tok/s | tok/s | speedup | tau | cycle / step |\n" + "|---" * 8 + "|")
    rows = [row(name, cell) for name, found in comparisons.items() for cell in found.cells]
    for one in rows:
        figures = f"{one['plain_tokens_per_s']:.1f} | {one['tokens_per_s']:.1f}"
        speedup = f"{one['speedup']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
        place = f"{one['drafting']} | {one['task']} | {one['batch_size']}"
        print(f"| {place} | {figures} | {speedup} | {one['tau']:.2f} | {one['cycle_over_step']:.2f} |")
    for name, found in comparisons.items():
        means = ", ".join(f"{each.speedup.text()} at {each.batch_size}" for each in found.overall)
        print(f"{name}, mean of the tasks: {means}")
    print(json.dumps({"step_over_bare": bare, "rows": rows, **provenance()}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="The CPU runtime beside a bare loop, speculation beside plain decoding."
    )
    parser.add_argument("--prompts", type=Path, nargs="+", default=[], help="JSONL, a task a file (the bundled ones)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--drafting", nargs="+", choices=DRAFTING, default=list(DRAFTING))
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: a spread needs two or more")
    torch.set_num_threads(options.threads)
    bare = asyncio.run(step_over_bare(options.rounds))
    found = {name: asyncio.run(drafting(name, DRAFTING[name], options)) for name in options.drafting}
    report(bare, found)


if __name__ == "__main__":
    main()
