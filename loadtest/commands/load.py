# ruff: noqa: T201  it talks to a terminal
"""Send requests to a gateway or any other OpenAI endpoint, at a rate or from workers, and tell how they fare."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from loadtest import load
from loadtest.commands.options import add_workload, batch_sizes, lengths, number, positive, rate, rates, share, whole
from loadtest.commands.terminal import INTERRUPTED, api_key, say
from loadtest.load_text import render
from loadtest.prompts import PromptSource
from loadtest.summary import Objectives

_DERIVED = {"objectives", "source"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench load`."""
    add = parser.add_argument
    add("url", metavar="URL", help="of the endpoint")
    _add_shape(parser)
    _add_requests(parser)
    for name, what in (("ttft", "time to first token"), ("tpot", "time per output token"), ("e2e", "whole time")):
        add(f"--{name}", type=rate, metavar="MS", help=f"objective for goodput: {what}")
    add("--output", type=Path, metavar="FILE", help="the report as JSON")
    add("--raw", type=Path, metavar="FILE", help="every request, a JSON line each")
    parser.set_defaults(check_options=partial(_check_options, parser))


def _add_shape(parser: argparse.ArgumentParser) -> None:
    """When requests come, and how long."""
    add, plan = parser.add_argument, load.Plan
    when = parser.add_mutually_exclusive_group(required=True)
    rated = "requests per second, at random; several: a stage each"
    when.add_argument("--rate", type=rates, default=(), dest="rates_per_s", metavar="R,R", help=rated)
    workers = "so many workers, each asking again as soon as it is answered; several: a stage each"
    when.add_argument("--concurrency", type=batch_sizes, default=(), dest="concurrencies", metavar="N,N", help=workers)
    when.add_argument("--trace", type=Path, metavar="FILE", help="JSON lines with `at_s`, seconds that ascend from 0")
    add("--burstiness", type=rate, default=plan.burstiness, metavar="X", help="below 1 in bursts, above it evenly (1)")
    add("--ramp", type=number, default=plan.ramp_s, dest="ramp_s", metavar="S", help="grow so long, not measured (0)")
    add("--stage", type=rate, dest="stage_s", metavar="S", help="seconds of each stage after its ramp")
    add("--requests", type=positive, metavar="N", help=f"of each stage at most ({load.REQUESTS}; any with --stage)")
    add("--seed", type=int, default=plan.seed, metavar="N", help="of all draws (0)")


def _add_requests(parser: argparse.ArgumentParser) -> None:
    """What is asked, and what clients do."""
    add, plan = parser.add_argument, load.Plan
    add_workload(parser, max_tokens=plan.max_tokens, tasks=True)
    add(
        "--synthetic", type=lengths, metavar="P:A", help="made up instead: tokens of a prompt, about, and of its answer"
    )
    add("--mix", type=Path, metavar="FILE", help="several tasks by weight instead, as a YAML file says")
    add("--system", metavar="TEXT", help="a system prompt (none)")
    add("--multi-turn", action="store_true", help="all turns of a prompt, each with the answers before it")
    add("--leave", type=share, default=plan.leave, metavar="SHARE", help="of clients that leave during an answer (0)")
    add("--temperature", type=number, default=plan.temperature, metavar="T", help="(0)")
    add("--warm-up", type=whole, default=plan.warm_up, metavar="N", help="requests before, not counted (2)")


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if sum(map(bool, (options.prompts, options.synthetic, options.mix))) > 1:
        parser.error("--prompts, --synthetic and --mix exclude one another")
    if options.trace and (options.ramp_s or options.stage_s):
        parser.error("a trace says when: leave --ramp and --stage out")
    if options.stage_s is None and options.ramp_s >= options.time_limit_s:
        parser.error("--ramp takes all of --time-limit")


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exit status 0; 1 if nothing was answered; 130 if it was interrupted; or a BenchError."""
    plan = _plan(options)
    outcome = asyncio.run(load.measure(plan, argv, say, api_key=api_key()))
    report = outcome.report
    print(render(report), flush=True)
    if plan.output:
        report.write(plan.output)
        say(f"{plan.output} is written{', marked partial' if report.partial else ''}")
    if outcome.failure:
        raise outcome.failure
    if outcome.interrupted:
        return INTERRUPTED
    return 0 if any(stage.summary.answered for stage in report.stages) else 1


def _plan(options: argparse.Namespace) -> load.Plan:
    given = {each.name: getattr(options, each.name) for each in fields(load.Plan) if each.name not in _DERIVED}
    source = PromptSource(tuple(options.prompts), options.synthetic, options.mix, options.system, options.seed)
    ttft_s, tpot_s, e2e_s = (
        None if most is None else most / 1000 for most in (options.ttft, options.tpot, options.e2e)
    )
    objectives = Objectives(ttft_s=ttft_s, tpot_s=tpot_s, e2e_s=e2e_s)
    return load.Plan(**given, source=source, objectives=objectives)
