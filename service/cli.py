"""The `aerie` command: `up`, `gateway`, `runtime`, `check`, `key`, `rollout`.

Owns the command line and the exit status: 0 for a stop that was asked for, 1 for a failure (one line says which), 2 for
wrong arguments; `rollout` has more. Everything else is in the parts.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from service.gateway.board import CannotShare
from service.gateway.keys import mint
from service.gateway.reload import InvalidFiles
from service.gateway.server import serve
from service.gateway.settings import Settings
from service.gateway.tracing import CannotTrace
from service.gateway.workers import CannotListen
from service.rollout import command as rollout
from service.rollout.errors import RolloutError
from service.runtime import model_source, preflight, profiles
from service.runtime.child import ChildError
from service.runtime.config import RuntimeConfig
from service.runtime.cpu.build import BuildError
from service.speculation import TREE_NUMBERS, Algorithm
from service.up import Stack, prepare, run, run_runtime

FAILURES = (
    InvalidFiles,
    CannotListen,
    CannotShare,
    CannotTrace,
    ChildError,
    BuildError,
    profiles.ProfileError,
    preflight.PreflightError,
    model_source.ModelError,
    RolloutError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except FAILURES as failure:
        print(f"aerie: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie: interrupted", file=sys.stderr)
        return 130


def up(options: argparse.Namespace) -> int:
    """SGLang and the gateway, until a signal."""
    stack = Stack(_config(options), options.host, options.port, options.verbose)
    asyncio.run(run(stack, prepare(stack)))
    return 0


def runtime(options: argparse.Namespace) -> int:
    """SGLang alone, supervised, until a signal."""
    stack = Stack(_config(options), verbose=True)
    asyncio.run(run_runtime(stack, prepare(stack)))
    return 0


def gateway(options: argparse.Namespace) -> int:
    """The gateway alone, in front of a runtime that runs already."""
    given = {name: getattr(options, name) for name in ("host", "port", "workers", "upstream", "config", "keys")}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        return _refused(error)
    serve(settings)
    return 0


def key(options: argparse.Namespace) -> int:
    """A new API key: shown once, with the entry that goes under `keys:` in the key file."""
    try:
        minted = mint(options.id)
    except ValidationError as error:
        return _refused(error)
    print(f"# the key, kept nowhere else: {minted.key}", file=sys.stderr)
    print(minted.entry, end="")
    return 0


def check(options: argparse.Namespace) -> int:
    """Whether a runtime could start here, and with which command, without starting it."""
    config = _config(options)
    preflight.check(config)
    print(json.dumps({"settings": config.model_dump(mode="json"), "sglang_flags": config.flags()}, indent=2))
    return 0


def _refused(error: ValidationError) -> int:
    print(f"aerie: {'; '.join(profiles.sentences(error))}", file=sys.stderr)
    return 1


def _config(options: argparse.Namespace) -> RuntimeConfig:
    """The profile with the command line's overrides."""
    speculation = {name: getattr(options, name) for name in ("algorithm", "draft", *TREE_NUMBERS)}
    if options.no_speculation:
        if any(value is not None for value in speculation.values()):
            raise profiles.ProfileError("no-speculation: plain decoding drafts nothing; leave the draft options out")
        speculation = {"algorithm": Algorithm.NONE}
    overrides: dict[str, Any] = {name: getattr(options, name) for name in ("model", "served_model_name", "dtype")}
    overrides |= {
        "host": options.runtime_host,
        "port": options.runtime_port,
        "node_rank": options.node_rank,
        "dist_init_addr": options.dist_init_addr,
        "extra_args": tuple(options.sglang_arg) or None,
    }
    return profiles.load(options.profile, {**overrides, "speculation": speculation})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aerie", description="EAGLE-3 speculative decoding on SGLang, operated.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    settings = _runtime_options()
    for command, parents in (
        (up, [_gateway_options(), settings]),  # each its own: defaults are set on the shared actions
        (gateway, [_gateway_options()]),
        (runtime, [settings]),
        (check, [settings]),
        (key, []),
    ):
        subparser = commands.add_parser(
            command.__name__, parents=parents, help=command.__doc__, description=command.__doc__
        )
        subparser.set_defaults(command=command)
        if command is gateway:
            subparser.add_argument(
                "--upstream", action="append", metavar="URL", help="a runtime, once for each (http://127.0.0.1:30000)"
            )
            subparser.add_argument("--config", metavar="FILE", help="YAML: pools, policy, queue; instead of --upstream")
            subparser.add_argument("--workers", type=int, metavar="N", help="processes that serve the port (1)")
            subparser.add_argument("--keys", metavar="FILE", help="YAML: API keys; without it everyone may ask")
        if command is key:
            subparser.add_argument("--id", required=True, metavar="NAME", help="for logs: a-z, 0-9, _ and -")
        if command is up:
            subparser.set_defaults(host="127.0.0.1", port=8000)
            subparser.add_argument("--verbose", action="store_true", help="show SGLang's output too")
    rollout.add_to(commands)
    return parser


def _gateway_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--host", help="the gateway's address (127.0.0.1)")
    options.add_argument("--port", type=_port, help="the gateway's port (8000)")
    return options


def _runtime_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--profile",
        default=os.environ.get("AERIE_PROFILE", "cpu"),
        help=f"a YAML file, or one of: {', '.join(profiles.names())} (cpu, or AERIE_PROFILE)",
    )
    options.add_argument("--model", help="target model: directory, hub repository, or the embedded one's name")
    options.add_argument("--served-model-name", metavar="NAME", help="the `model` that clients ask for")
    options.add_argument("--draft", help="draft model: directory or hub repository")
    options.add_argument(
        "--algorithm", type=str.upper, choices=[str(name) for name in Algorithm], help="how drafts are made"
    )
    options.add_argument("--num-steps", type=int, metavar="N", help="depth of the draft tree")
    options.add_argument("--eagle-topk", type=int, metavar="N", help="branches per step; 1 is a chain")
    options.add_argument("--num-draft-tokens", type=int, metavar="N", help="nodes verified per pass, the root included")
    options.add_argument("--no-speculation", action="store_true", help="plain decoding: the honest baseline")
    options.add_argument("--dtype", help="auto, bfloat16, float16 or float32")
    options.add_argument("--runtime-host", metavar="ADDRESS", help="SGLang's address (127.0.0.1)")
    options.add_argument("--runtime-port", type=_port, metavar="PORT", help="SGLang's port (30000)")
    options.add_argument("--node-rank", type=int, metavar="N", help="of the profile's nodes, this one; 0 serves")
    options.add_argument("--dist-init-addr", metavar="HOST:PORT", help="where the nodes of one replica meet")
    options.add_argument(
        "--sglang-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="a further SGLang flag: --sglang-arg=--log-level=debug",
    )
    return options


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port: 1 to 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
