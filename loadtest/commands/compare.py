# ruff: noqa: T201  it talks to a terminal
"""Measure two endpoints in turns, speculation and its baseline say: the ratio of their speeds, with intervals."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from loadtest import compare
from loadtest.commands.options import add_workload, at_least_two, batch_sizes, number, positive, whole, words
from loadtest.commands.terminal import INTERRUPTED, api_key, say
from loadtest.comparison_text import render
from loadtest.errors import TooNoisy

_SIDE = "a URL; or `speculation` or `baseline`, started here, with options of `aerie runtime` after it"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench compare`."""
    add, plan, noise = parser.add_argument, compare.Plan, compare.NOISE_BOUND
    add("--a", default="speculation", metavar="SIDE", help=f"{_SIDE} (speculation)")
    add("--b", default="baseline", metavar="SIDE", help="the other side, likewise (baseline)")
    add("--profile", metavar="NAME", help="of runtimes that are started here")
    add("--batch-sizes", type=batch_sizes, default=plan.batch_sizes, metavar="N,N", help="(1,4,8)")
    add("--rounds", type=at_least_two, default=plan.rounds, metavar="N", help="at each batch size and task (6)")
    add("--passes", type=positive, default=plan.passes, metavar="N", help="requests of a worker in a round (2)")
    add("--temperature", type=number, default=plan.temperature, metavar="T", help="(0)")
    add("--same-text", type=whole, default=plan.same_text, metavar="N", help="answers of a task that are compared (8)")
    add("--hardware", type=words, metavar="TEXT", help="of the endpoints, where it cannot be told from here")
    add("--allow-noise", action="store_true", help=f"keep ratios that differ by more than {noise:.0%}%")
    add("--output", type=Path, metavar="FILE", help="the comparison as JSON")
    add("--raw", type=Path, metavar="FILE", help="every request, a JSON line each")
    add_workload(parser, max_tokens=plan.max_tokens, tasks=True)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0; 130 if it was interrupted; or a BenchError, after what is whole was printed and written."""
    given = {field.name: getattr(options, field.name) for field in fields(compare.Plan)}
    plan = compare.Plan(**given | {"prompts": tuple(options.prompts)})
    outcome = asyncio.run(compare.compare(plan, argv, say, api_key=api_key()))
    print(render(outcome.comparison), flush=True)
    if plan.output and outcome.comparison.cells:
        say(f"{plan.output} is written{', marked partial' if outcome.comparison.partial else ''}")
    if outcome.failure:
        raise outcome.failure
    if outcome.interrupted:
        return INTERRUPTED
    if not all(cell.quiet for cell in outcome.comparison.cells):
        raise TooNoisy("the machine was not quiet: compare again when it is, or keep such ratios with --allow-noise")
    return 0
