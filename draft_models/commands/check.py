# ruff: noqa: T201  it talks to a terminal
"""What is wrong with a draft for a target, without loading weights; exit status 1 if it would not work."""

import argparse
import json
from pathlib import Path

from draft_models.check import check
from draft_models.target import load_tokenizer, target_config, template_hash


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft check`."""
    parser.add_argument("target", type=Path, help="the target's directory")
    parser.add_argument("draft", type=Path, help="the draft's directory, in SGLang's format")
    parser.add_argument("--json", action="store_true", help="findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status 1 if there is an error among the findings."""
    template = template_hash(load_tokenizer(options.target))
    findings = check(target_config(options.target), template, options.draft)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print("\n".join(map(str, findings)) or f"{options.draft}: nothing to find fault with")
    return int(any(finding.level == "error" for finding in findings))
