# ruff: noqa: T201  it talks to a terminal
"""Write a published draft (EAGLE, SpecForge, speculators) in SGLang's format, with a report of every tensor."""

import argparse
import json
from pathlib import Path
from typing import Any

from draft_models.checkpoint import CONFIG, WEIGHTS, save_draft
from draft_models.commands.options import taps
from draft_models.errors import ConfigError
from draft_models.formats.importing import import_draft
from draft_models.formats.report import ImportReport
from draft_models.formats.source import Source, read_embedding, read_source
from draft_models.provenance import file_sha256, provenance, relative
from draft_models.target import target_config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft import`."""
    parser.add_argument("source", type=Path, help="the published draft's directory; its format is found out")
    parser.add_argument("target", type=Path, help="the target's directory; config.json is enough")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the imported draft goes")
    parser.add_argument("--taps", type=taps, metavar="L,M,H", help="hidden_states indices, against the source's own")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status 1, and nothing written, if a tensor or a setting stands against it."""
    if any((options.out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise ConfigError(f"{options.out}: holds a model; choose another --out")
    source = read_source(options.source)
    report, draft = import_draft(source, target_config(options.target), read_embedding(options.target), options.taps)
    if draft is not None:
        save_draft(draft, options.out, _provenance(source, report))
    _print(report, options)
    return int(draft is None)


def _print(report: ImportReport, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(report.as_json() | {"out": str(options.out) if report.ok else None}, indent=2))
        return
    print("\n".join(report.lines()))
    print(f"{options.out}: written" if report.ok else "nothing written")


def _provenance(source: Source, report: ImportReport) -> dict[str, Any]:
    """What the draft says of itself if it was trained or imported here before; else where it is from."""
    aerie = source.config.get("aerie")
    if isinstance(aerie, dict):
        return {name: value for name, value in aerie.items() if name != "num_target_layers"}
    return {
        "imported": {
            "format": report.format,
            "source": relative(source.directory),
            "sha256": {name: file_sha256(source.directory / name) for name in source.files},
            **provenance(),
        }
    }
