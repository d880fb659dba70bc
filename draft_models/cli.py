# ruff: noqa: T201  it talks to a terminal
"""The `aerie-draft` command.

Owns the command line's frame and the exit status: 0 done, 1 a failure (one line says which), 2 wrong arguments, 130
interrupted. The commands themselves are in `draft_models.commands`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
import transformers

from draft_models.commands import check, evaluate, import_, list_, plot, prepare, record, study, train
from draft_models.commands.options import positive
from draft_models.errors import DraftError

COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "record": record,
    "check": check,
    "import": import_,
    "list": list_,
    "study": study,
    "plot": plot,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except DraftError as failure:
        print(f"aerie-draft: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aerie-draft: interrupted (prepare goes on where it was, train with --resume)", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aerie-draft", description="EAGLE-3 drafts: train, measure, check and import them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        subparser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (torch's choice)")
        command.add_options(subparser)
        subparser.set_defaults(command=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
