"""Does the tuner find the grid's best tree, from a fifth of the starts? Both on the same runs of this machine.

`python -m scripts.tuner_vs_grid --record record.jsonl --output grid.json` measures every tree of a grid beside the
baseline (a start each), then lets the tuner search among the same trees: where it asks for a tree, it gets the grid's
run. So the tuner differs in nothing but in what it does not look at. Two judges, as the speedup of all batch sizes
alike: throughput as measured, and recorded acceptance over measured cycle time. The best of many noisy figures is
partly luck, so the choice of each is then measured once more, with more rounds. `--reuse` takes the grid from a file.

SGLang's own grid (scripts/playground/bench_speculative.py) by default: five batch sizes, each with the baseline and the
47 trees of steps 1 3 5 7, topk 1 2 4 8 and tokens 2 4 8 16 32 that have tokens <= steps * topk + 1, a start for each.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.paired import Schedule
from loadtest.prompts import PromptSource
from loadtest.tree import Tree
from loadtest.tuning.evidence import Evidence, Run, Traffic
from loadtest.tuning.recording import Recording
from loadtest.tuning.runs import Setup, bench
from loadtest.tuning.search import Search, best_measured
from scripts.provenance import provenance

GRID = (
    *("1/1/2", "2/1/3", "3/1/4", "4/1/5", "5/1/6"),
    *("2/2/4", "3/2/6", "4/2/8", "5/2/8"),
    *("2/4/6", "2/4/8", "3/4/8", "3/4/12", "4/4/8", "4/4/16", "5/4/8", "5/4/16"),
    *("3/8/16", "5/8/32"),
)


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


async def measure(options: argparse.Namespace, temperature: float, trees: Sequence[str], rounds: int) -> list[Run]:
    """A start for each tree."""
    setup = Setup(
        PromptSource(tuple(options.prompts)).prompts(),
        Schedule(rounds, options.passes, 300),
        tuple(options.batch_sizes),
        options.max_tokens,
        temperature,
        alone=options.alone,
    )
    async with bench(setup, say) as measuring:
        runs = []
        for number, tree in enumerate(trees, start=1):
            say(f"tree {number} of {len(trees)}")
            runs.append(await measuring.measure(Tree.parse(tree)))
        return runs


def throughput(run: Run) -> float:
    """Speedup of all batch sizes alike, as measured: time before over time after."""
    return statistics.harmonic_mean([statistics.median(cell.speedups) for cell in run.cells])


def search(recording: Recording, traffic: Traffic, runs: list[Run], most_runs: int) -> Evidence:
    """What the tuner looks at, of the grid's runs."""
    by_tree = {Tree.parse(run.tree): run for run in runs}

    async def look_up(tree: Tree) -> Run:
        return by_tree[tree]

    return asyncio.run(Search(recording, traffic, list(by_tree), most_runs).run(look_up, say)).evidence


def report(grid: Evidence, tuner: Evidence) -> dict[str, str | int | float]:
    """The choice of each, by both judges."""
    chosen, best = best_measured(tuner), best_measured(grid)
    fastest = max(grid.runs, key=lambda tree: throughput(grid.runs[tree]))
    print("| tree | throughput | tau / cycle | predicted by the tuner | looked at |\n|---|---|---|---|---|")
    for tree in sorted(grid.runs, key=grid.speedup, reverse=True):
        looked = "yes" if tree in tuner.runs else ""
        figures = f"{throughput(grid.runs[tree]):.2f} | {grid.speedup(tree):.2f} | {tuner.speedup(tree):.2f}"
        print(f"| {tree} | {figures} | {looked} |")
    found: dict[str, str | int | float] = {
        "starts of the grid": len(grid.runs) + 1,
        "starts of the tuner": len(tuner.runs) + 1,
        "tuner's choice": str(chosen),
        "best by tau / cycle": str(best),
        "best by throughput": str(fastest),
        "choice / best, tau / cycle": round(grid.speedup(chosen) / grid.speedup(best), 3),
        "choice / best, throughput": round(throughput(grid.runs[chosen]) / throughput(grid.runs[fastest]), 3),
    }
    for name, value in found.items():
        print(f"{name}: {value}")
    return found


def main() -> None:
    """Measure, search, compare."""
    parser = argparse.ArgumentParser(description="The tuner against an exhaustive grid.")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="the runs, for --reuse")
    parser.add_argument("--reuse", type=Path)
    parser.add_argument("--trees", nargs="+", default=GRID)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--final-rounds", type=int, default=4, help="of the two choices, again; 0: none")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--most-runs", type=int, default=3, help="trees that the tuner may look at")
    parser.add_argument("--prompts", type=Path, nargs="*", default=[])
    parser.add_argument("--alone", action="store_true", help="the baseline once, before all trees")
    options = parser.parse_args()
    recording = Recording.read(options.record)
    if options.reuse:
        runs = [Run.model_validate_json(json.dumps(run)) for run in json.loads(options.reuse.read_text())["runs"]]
    else:
        runs = asyncio.run(measure(options, recording.head.setting.temperature, options.trees, options.rounds))
    batch_sizes = {cell.batch_size: 1.0 for cell in runs[0].cells}
    traffic = Traffic.of(recording, {}, batch_sizes)
    tuner = search(recording, traffic, runs, options.most_runs)
    found = report(Evidence.of(recording, traffic, runs), tuner)
    finals = [str(found["tuner's choice"]), str(found["best by throughput"])]
    again = []
    if options.final_rounds and finals[0] != finals[1]:
        again = asyncio.run(measure(options, recording.head.setting.temperature, finals, options.final_rounds))
        found["choice / best, throughput, measured again"] = round(throughput(again[0]) / throughput(again[1]), 3)
        print(f"measured again: {', '.join(f'{run.tree} {throughput(run):.2f}' for run in again)}")
    if options.output:
        documents = {name: [run.model_dump() for run in some] for name, some in (("runs", runs), ("again", again))}
        document = {**documents, "found": found, **provenance()}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
