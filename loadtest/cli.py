"""The `aerie-bench` command.

Owns the command line, the environment (AERIE_API_KEY), and the exit status: 0 done, 1 a failure (one line says which),
2 wrong arguments, 130 interrupted. Progress goes to stderr, results to stdout.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from loadtest import curve
from loadtest.calibrate import NOISE_BOUND, Plan, calibrate
from loadtest.errors import BenchError
from loadtest.table import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    try:
        return _check(options.check) if options.check else _calibrate(options, given)
    except BenchError as failure:
        print(f"aerie-bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie-bench: interrupted; nothing was written", file=sys.stderr)
        return 130


def _check(path: Path) -> int:
    print(render(curve.read(path)))
    return 0


def _calibrate(options: argparse.Namespace, given: Sequence[str]) -> int:
    plan = Plan(**{field.name: getattr(options, field.name) for field in fields(Plan)})
    api_key = os.environ.get("AERIE_API_KEY")
    measured = asyncio.run(calibrate(plan, ["aerie-bench", *given], _say, api_key=api_key))
    print(render(measured), flush=True)
    curve.write(measured, plan.output)
    _say(f"{plan.output} is written")
    return 0


def _say(line: str) -> None:
    print(f"aerie-bench: {line}", file=sys.stderr, flush=True)


def _options(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aerie-bench", description="Load tests of speculation and of its baseline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "Measure a baseline's speed by batch size, and what speculation gains, into a file for the gateway."
    command = commands.add_parser("calibrate", help=about, description=about)
    _add_files(command)
    _add_workload(command)
    _add_limits(command)
    options = parser.parse_args(given)
    if options.baseline and not options.output:
        command.error("--baseline needs --output FILE")
    if options.check and (options.output or options.speculative):
        command.error("--check measures nothing: leave --output and --speculative out")
    return options


def _add_files(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", metavar="URL", help="an SGLang runtime without speculation")
    what.add_argument("--check", type=Path, metavar="FILE", help="validate a curve file and print it; measure nothing")
    command.add_argument("--speculative", metavar="URL", help="the same runtime with speculation")
    command.add_argument("--output", type=Path, metavar="FILE", help="the curve file")


def _add_workload(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--batch-sizes", type=_batch_sizes, default=Plan.batch_sizes, metavar="N,N", help="(1,2,4,8)")
    add("--rounds", type=_at_least_two, default=Plan.rounds, metavar="N", help="at each batch size (3)")
    add("--passes", type=_positive, default=Plan.passes, metavar="N", help="requests of a worker in a round (3)")
    add("--max-tokens", type=_positive, default=Plan.max_tokens, metavar="N", help="of an answer (64)")
    add("--prompts", type=Path, metavar="FILE", help="JSON lines with `turns` (the bundled ones)")
    add("--model", metavar="NAME", help="(the first that the baseline serves)")
    add("--hardware", type=_words, metavar="TEXT", help="of the runtimes, where it cannot be told from here")


def _add_limits(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--allow-noise", action="store_true", help=f"keep rounds that differ by more than {NOISE_BOUND:.0%}%")
    add("--time-limit", type=_positive, default=120, dest="time_limit_s", metavar="S", help="of a round (120)")
    add("--timeout", type=_positive, default=120, dest="timeout_s", metavar="S", help="silence that fails (120)")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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
