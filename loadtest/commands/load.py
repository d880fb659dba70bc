# ruff: noqa: T201  it talks to a terminal
"""Send requests at a rate, to a gateway or any other OpenAI endpoint, and tell how they fared."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from loadtest import files, load
from loadtest.commands.options import add_workload, number, positive, rate, whole
from loadtest.commands.terminal import INTERRUPTED, api_key, say
from loadtest.summary import Objectives


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench load`."""
    add, plan = parser.add_argument, load.Plan
    add("url", metavar="URL", help="of the endpoint")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--rate", type=rate, dest="rate_per_s", metavar="R", help="requests per second, at random")
    when.add_argument("--trace", type=Path, metavar="FILE", help="JSON lines with `at_s`, seconds that ascend from 0")
    add("--burstiness", type=rate, default=plan.burstiness, metavar="X", help="below 1 in bursts, above it evenly (1)")
    add("--seed", type=int, default=plan.seed, metavar="N", help="of the times (0)")
    add("--requests", type=positive, default=plan.requests, metavar="N", help="at most (100)")
    add("--warm-up", type=whole, default=plan.warm_up, metavar="N", help="requests before, not counted (2)")
    add("--temperature", type=number, default=plan.temperature, metavar="T", help="(0)")
    add("--output", type=Path, metavar="FILE", help="the report as JSON")
    for name, what in (("ttft", "time to first token"), ("tpot", "time per output token"), ("e2e", "whole time")):
        add(f"--{name}", type=rate, metavar="MS", help=f"objective for goodput: {what}")
    add_workload(parser, max_tokens=plan.max_tokens)


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0; 1 if nothing was answered; 130 if it was interrupted; or a BenchError."""
    given = {field.name: getattr(options, field.name) for field in fields(load.Plan) if field.name != "objectives"}
    most_ms = (options.ttft, options.tpot, options.e2e)
    objectives = Objectives(*(None if most is None else most / 1000 for most in most_ms))
    report = asyncio.run(load.measure(load.Plan(**given, objectives=objectives), argv, say, api_key=api_key()))
    print(report.text(), flush=True)
    if options.output:
        files.write(report.json_text(), options.output)
        say(f"{options.output} is written")
    if report.interrupted:
        return INTERRUPTED
    return 0 if report.summary.answered else 1
