# ruff: noqa: T201  it talks to a terminal
"""Repeat the EAGLE-3 paper's Table 1, Table 3 and Figure 7 for the configured runtime, beside the paper's numbers."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from loadtest.commands.options import add_workload, at_least_two, batch_sizes, number, positive, words
from loadtest.commands.terminal import INTERRUPTED, api_key, say
from loadtest.paper import experiment
from loadtest.paper.results import Paper
from loadtest.paper.text import render


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench paper`."""
    add, plan = parser.add_argument, experiment.Plan
    add("--output", type=Path, required=True, metavar="FILE", help="JSON, written again after every comparison")
    add("--check", action="store_true", help="print the tables of the output file; measure nothing")
    add("--resume", action="store_true", help="go on where the run that left the output file stopped")
    add("--profile", metavar="NAME", help="of the runtimes")
    add("--baseline", default=plan.baseline, metavar="SIDE", help="plain decoding (baseline)")
    more = "a side of `aerie-bench compare` under this name"
    add("--method", type=_method, action="append", default=[], dest="further", metavar="NAME=SIDE", help=more)
    add("--only", nargs="+", default=(), metavar="NAME", help="these methods alone")
    add("--temperatures", type=_temperatures, default=plan.temperatures, metavar="T,T", help="of Table 1 (0,1)")
    add("--batch-sizes", type=batch_sizes, default=plan.batch_sizes, metavar="N,N", help="of Table 3 (1,2,4,8)")
    add("--chain", type=positive, default=plan.chain, metavar="N", help="drafts of a pass in Table 3 (3)")
    add("--rounds", type=at_least_two, default=plan.rounds, metavar="N", help="of every comparison (3)")
    add("--passes", type=positive, default=plan.passes, metavar="N", help="requests of a worker in a round (2)")
    add("--hardware", type=words, metavar="TEXT", help="of the endpoints, where it cannot be told from here")
    add("--allow-noise", action="store_true", help="keep ratios that differ by more than 10%%")
    add_workload(parser, max_tokens=plan.max_tokens, tasks=True)
    parser.set_defaults(check_options=lambda options: _check_options(parser, options))


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.check and not options.prompts:
        parser.error("--prompts: name the tasks' files, mt_bench.jsonl and so on (docs/prompts.md)")


def _method(text: str) -> tuple[str, str]:
    name, equals, side = text.partition("=")
    if not (name.strip() and equals and side.strip()):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=SIDE")
    return name.strip(), side.strip()


def _temperatures(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(map(number, text.split(","))))


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0; 130 if it was interrupted; or a BenchError, what was measured before it being in the file."""
    if options.check:
        print(render(Paper.read(options.output, "a file of `aerie-bench paper`")), end="")
        return 0
    given = {field.name: getattr(options, field.name) for field in fields(experiment.Plan)}
    given |= {"prompts": tuple(options.prompts), "further": dict(options.further), "only": tuple(options.only)}
    paper = asyncio.run(experiment.repeat(experiment.Plan(**given), argv, say, api_key=api_key()))
    print(render(paper), end="")
    if paper.partial:
        say("interrupted: whole comparisons are in the file, marked partial; go on with --resume")
        return INTERRUPTED
    say(f"{options.output} is written")
    return 0
