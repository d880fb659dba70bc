# ruff: noqa: T201  it talks to a terminal
"""Measure a baseline's speed by batch size, and what speculation gains, into a file for the gateway."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from loadtest import calibrate, curve
from loadtest.commands.options import add_workload, at_least_two, batch_sizes, positive, words
from loadtest.commands.terminal import api_key, say
from loadtest.table import render


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench calibrate`."""
    add, plan, noise = parser.add_argument, calibrate.Plan, calibrate.NOISE_BOUND
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", metavar="SIDE", help="a runtime's URL, or `baseline`: it is started here")
    what.add_argument("--check", type=Path, metavar="FILE", help="validate a curve file and print it; measure nothing")
    add("--speculative", metavar="SIDE", help="the same runtime with speculation, likewise (`speculation`)")
    add("--profile", metavar="NAME", help="of runtimes that are started here")
    add("--output", type=Path, metavar="FILE", help="the curve file")
    add("--batch-sizes", type=batch_sizes, default=plan.batch_sizes, metavar="N,N", help="(1,2,4,8)")
    add("--rounds", type=at_least_two, default=plan.rounds, metavar="N", help="at each batch size (3)")
    add("--passes", type=positive, default=plan.passes, metavar="N", help="requests of a worker in a round (3)")
    add("--hardware", type=words, metavar="TEXT", help="of the runtimes, where it cannot be told from here")
    add("--allow-noise", action="store_true", help=f"keep rounds that differ by more than {noise:.0%}%")
    add_workload(parser, max_tokens=plan.max_tokens)
    parser.set_defaults(check_options=partial(_check_options, parser))


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.baseline and not options.output:
        parser.error("--baseline needs --output FILE")
    if options.check and (options.output or options.speculative):
        parser.error("--check measures nothing: leave --output and --speculative out")


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0, or a BenchError."""
    if options.check:
        print(render(curve.read(options.check)))
        return 0
    plan = calibrate.Plan(**{field.name: getattr(options, field.name) for field in fields(calibrate.Plan)})
    measured = asyncio.run(calibrate.calibrate(plan, argv, say, api_key=api_key()))
    print(render(measured), flush=True)
    measured.write(plan.output)
    say(f"{plan.output} is written")
    return 0
