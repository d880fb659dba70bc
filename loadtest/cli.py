# ruff: noqa: T201  it talks to a terminal
"""The `aerie-bench` command.

Owns the command line's frame and the exit status: 0 done, 1 a failure (one line says which), 2 wrong arguments, 130
interrupted (by SIGINT or SIGTERM). Progress goes to stderr, results to stdout. The commands themselves are in
`loadtest.commands`.
"""

import argparse
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.commands import calibrate, compare, load, paper, plan, prompts, report, tune
from loadtest.commands.terminal import INTERRUPTED
from loadtest.errors import BenchError

COMMANDS = {
    "load": load,
    "compare": compare,
    "calibrate": calibrate,
    "paper": paper,
    "plan": plan,
    "prompts": prompts,
    "report": report,
    "tune": tune,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    options.check_options(options)
    command: Callable[[argparse.Namespace, Sequence[str]], int] = options.command
    _raise_descriptor_limit()
    before = _interruptible()
    try:
        return command(options, ["aerie-bench", *given])
    except BenchError as failure:
        print(f"aerie-bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie-bench: interrupted; nothing more was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interruptible() -> dict[int, Any]:
    """SIGTERM does what Ctrl-C does, also where a shell that starts us in the background has Ctrl-C ignored."""
    ours = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: lambda *_: signal.raise_signal(signal.SIGINT),
    }
    return {number: signal.signal(number, handler) for number, handler in ours.items()}


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor: this client shall not run out of them before the endpoint does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aerie-bench", description="Load tests of speculation and of its baseline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        subparser.set_defaults(command=command.run, check_options=lambda _: None)
        command.add_options(subparser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
