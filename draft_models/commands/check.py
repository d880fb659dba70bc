# ruff: noqa: T201  it talks to a terminal
"""What is wrong with a draft for a target, without loading weights; exit status 1 if it would not work."""

import argparse
import json
from pathlib import Path

from draft_models.check import check
from draft_models.checks.kind import EAGLE, EAGLE3
from draft_models.errors import TargetError
from draft_models.target import load_tokenizer, target_config, template_hash

ALGORITHMS = (EAGLE3, EAGLE, "NEXTN", "STANDALONE")
"""SGLang's that take a draft."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft check`."""
    parser.add_argument("target", type=Path, help="the target's directory; config.json is enough")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=EAGLE3, help="it will be served with this (EAGLE3)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="CODE",
        help="a known error, which does not count",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status 1 if there is an error among the findings that is not allowed."""
    template = _template(options.target)
    findings = check(target_config(options.target), template, options.draft, options.algorithm)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        fine = f"{options.draft}: nothing to find fault with; serve it with --speculative-algorithm {options.algorithm}"
        print("\n".join(map(str, findings)) or fine)
    return int(any(finding.level == "error" and finding.code not in options.allow for finding in findings))


def _template(target: Path) -> str | None:
    """Hash of the chat template; None without a tokenizer, or without a template."""
    try:
        return template_hash(load_tokenizer(target))
    except TargetError:
        return None
