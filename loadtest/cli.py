"""The `aerie-bench` command.

Owns the command line, the environment (AERIE_API_KEY), and the exit status: 0 done, 1 a failure (one line says which),
2 wrong arguments, 130 interrupted. Progress goes to stderr, results to stdout.
"""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from loadtest import calibrate, curve, files, load
from loadtest.errors import BenchError
from loadtest.summary import Objectives
from loadtest.table import render

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    command: Callable[[argparse.Namespace, Sequence[str]], int] = options.command
    try:
        return command(options, ["aerie-bench", *given])
    except BenchError as failure:
        print(f"aerie-bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie-bench: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


def _calibrate(options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.check:
        print(render(curve.read(options.check)))
        return 0
    plan = calibrate.Plan(**{field.name: getattr(options, field.name) for field in fields(calibrate.Plan)})
    measured = asyncio.run(calibrate.calibrate(plan, argv, _say, api_key=_api_key()))
    print(render(measured), flush=True)
    curve.write(measured, plan.output)
    _say(f"{plan.output} is written")
    return 0


def _load(options: argparse.Namespace, argv: Sequence[str]) -> int:
    given = {field.name: getattr(options, field.name) for field in fields(load.Plan) if field.name != "objectives"}
    most_ms = (options.ttft, options.tpot, options.e2e)
    objectives = Objectives(*(None if most is None else most / 1000 for most in most_ms))
    report = asyncio.run(load.measure(load.Plan(**given, objectives=objectives), argv, _say, api_key=_api_key()))
    print(report.text(), flush=True)
    if options.output:
        files.write(report.json_text(), options.output)
        _say(f"{options.output} is written")
    if report.interrupted:
        return INTERRUPTED
    return 0 if report.summary.answered else 1


def _api_key() -> str | None:
    return os.environ.get("AERIE_API_KEY")


def _say(line: str) -> None:
    print(f"aerie-bench: {line}", file=sys.stderr, flush=True)


def _options(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aerie-bench", description="Load tests of speculation and of its baseline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "Measure a baseline's speed by batch size, and what speculation gains, into a file for the gateway."
    calibration = commands.add_parser("calibrate", help=about, description=about)
    calibration.set_defaults(command=_calibrate)
    _add_curve_files(calibration)
    _add_calibration(calibration)
    about = "Send requests at a rate, to a gateway or any other OpenAI endpoint, and tell how they fared."
    loading = commands.add_parser("load", help=about, description=about)
    loading.set_defaults(command=_load)
    _add_arrivals(loading)
    _add_objectives(loading)
    for command in (calibration, loading):
        _add_workload(command)
    options = parser.parse_args(given)
    if options.command is _calibrate:
        if options.baseline and not options.output:
            calibration.error("--baseline needs --output FILE")
        if options.check and (options.output or options.speculative):
            calibration.error("--check measures nothing: leave --output and --speculative out")
    return options


def _add_curve_files(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", metavar="URL", help="an SGLang runtime without speculation")
    what.add_argument("--check", type=Path, metavar="FILE", help="validate a curve file and print it; measure nothing")
    command.add_argument("--speculative", metavar="URL", help="the same runtime with speculation")
    command.add_argument("--output", type=Path, metavar="FILE", help="the curve file")


def _add_calibration(command: argparse.ArgumentParser) -> None:
    add, plan, noise = command.add_argument, calibrate.Plan, calibrate.NOISE_BOUND
    add("--batch-sizes", type=_batch_sizes, default=plan.batch_sizes, metavar="N,N", help="(1,2,4,8)")
    add("--rounds", type=_at_least_two, default=plan.rounds, metavar="N", help="at each batch size (3)")
    add("--passes", type=_positive, default=plan.passes, metavar="N", help="requests of a worker in a round (3)")
    add("--hardware", type=_words, metavar="TEXT", help="of the runtimes, where it cannot be told from here")
    add("--allow-noise", action="store_true", help=f"keep rounds that differ by more than {noise:.0%}%")


def _add_arrivals(command: argparse.ArgumentParser) -> None:
    add, plan = command.add_argument, load.Plan
    add("url", metavar="URL", help="of the endpoint")
    when = command.add_mutually_exclusive_group(required=True)
    when.add_argument("--rate", type=_rate, dest="rate_per_s", metavar="R", help="requests per second, at random")
    when.add_argument("--trace", type=Path, metavar="FILE", help="JSON lines with `at_s`, seconds that ascend from 0")
    add("--burstiness", type=_rate, default=plan.burstiness, metavar="X", help="below 1 in bursts, above it evenly (1)")
    add("--seed", type=int, default=plan.seed, metavar="N", help="of the times (0)")
    add("--requests", type=_positive, default=plan.requests, metavar="N", help="at most (100)")
    add("--warm-up", type=_whole, default=plan.warm_up, metavar="N", help="requests before, not counted (2)")
    add("--temperature", type=_number, default=plan.temperature, metavar="T", help="(0)")
    add("--output", type=Path, metavar="FILE", help="the report as JSON")


def _add_objectives(command: argparse.ArgumentParser) -> None:
    for name, what in (("ttft", "time to first token"), ("tpot", "time per output token"), ("e2e", "whole time")):
        command.add_argument(f"--{name}", type=_rate, metavar="MS", help=f"objective for goodput: {what}")


def _add_workload(command: argparse.ArgumentParser) -> None:
    add, plan = command.add_argument, calibrate.Plan
    add("--max-tokens", type=_positive, default=plan.max_tokens, metavar="N", help="of an answer (64)")
    add("--prompts", type=Path, metavar="FILE", help="JSON lines with `turns` (the bundled ones)")
    add("--model", metavar="NAME", help="(the first that is served)")
    add(
        "--time-limit",
        type=_positive,
        default=120,
        dest="time_limit_s",
        metavar="S",
        help="nothing is sent after it (120)",
    )
    add("--timeout", type=_positive, default=120, dest="timeout_s", metavar="S", help="silence that fails (120)")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _rate(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("say what it is")
    return text.strip()


def _at_least_two(text: str) -> int:
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError("one round cannot tell noise: 2 at least")
    return int(text)


def _batch_sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(set(map(_positive, text.split(",")))))


if __name__ == "__main__":
    sys.exit(main())
