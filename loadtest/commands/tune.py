# ruff: noqa: T201  it talks to a terminal
"""Find the draft tree that pays most for a traffic, from recorded acceptance and a few starts of a runtime."""

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from loadtest import files
from loadtest.commands.options import add_workload, at_least_two, positive, rate, words
from loadtest.commands.terminal import INTERRUPTED, api_key, say
from loadtest.errors import OutputError
from loadtest.tuning import export, tune

RESULT = "tuning.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench tune`."""
    add, plan = parser.add_argument, tune.Plan
    add("--record", type=Path, required=True, metavar="FILE", help="acceptance, from `aerie-draft record`")
    add("--output", type=Path, required=True, metavar="DIR", help="for the tuning, a profile, and values for the chart")
    add(
        "--batch-sizes",
        type=_weights(positive),
        default={1: 1.0, 4: 1.0, 8: 1.0},
        metavar="N=W,N=W",
        help="of the traffic, with the share of the time at each (1=1,4=1,8=1)",
    )
    add(
        "--tasks",
        type=_weights(words),
        default={},
        metavar="NAME=W,NAME=W",
        help="with the share of the tokens of each (all that were recorded, alike)",
    )
    add("--profile", metavar="NAME", help="of the runtimes that are started")
    add("--runs", type=at_least_two, default=plan.runs, metavar="N", help="trees that are measured, at most (5)")
    add("--rounds", type=at_least_two, default=plan.rounds, metavar="N", help="of each tree at each batch size (3)")
    add("--passes", type=positive, default=plan.passes, metavar="N", help="requests of a worker in a round (2)")
    add("--chains", action="store_true", help="chains only: topk 1")
    add("--alone", action="store_true", help="one runtime at a time, where two do not fit")
    add("--reuse", type=Path, metavar="FILE", help="a tuning: decide anew from its runs, start nothing")
    add("--pool", default="eagle", metavar="NAME", help="the chart's pool in the values (eagle)")
    add("--hardware", type=words, metavar="TEXT", help="of the runtimes, where it cannot be told from here")
    add_workload(parser, max_tokens=plan.max_tokens, tasks=True)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0; 130 if it was interrupted; or a BenchError."""
    profile = export.settings(options.profile)
    _make(options.output)
    given = {field.name: getattr(options, field.name) for field in fields(tune.Plan)}
    plan = tune.Plan(**given | {"prompts": tuple(options.prompts)})
    tuning = asyncio.run(tune.tune(plan, argv, say, api_key=api_key()))
    print(tuning.text(), flush=True)
    algorithm = profile["speculation"]["algorithm"]
    for name, text in {
        RESULT: tuning.json_text(),
        export.PROFILE: export.profile_yaml(tuning, profile),
        export.VALUES: export.values_yaml(tuning, options.pool, algorithm),
        export.TIERS: export.tiers_json(tuning),
    }.items():
        files.write(text, options.output / name)
        say(f"{options.output / name} is written{', marked partial' if tuning.partial else ''}")
    return INTERRUPTED if tuning.partial else 0


def _make(output: Path) -> None:
    """The directory, before anything is measured."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made ({error.strerror})") from error
    files.require_writable(output / RESULT)


def _weights(kind: Callable[[str], object]) -> Callable[[str], dict[object, float]]:
    """`KEY=WEIGHT` with commas between; without a weight, 1."""

    def parse(text: str) -> dict[object, float]:
        pairs = (part.partition("=") for part in text.split(","))
        return {kind(key): rate(weight) if equals else 1.0 for key, equals, weight in pairs}

    return parse
