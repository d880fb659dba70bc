# ruff: noqa: T201  it talks to a terminal
"""Write a published draft (EAGLE, SpecForge, speculators) in SGLang's format, with a report of every tensor."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from draft_models.checkpoint import CONFIG, save_draft, written_by_us
from draft_models.errors import ConfigError
from draft_models.formats.importing import import_draft
from draft_models.formats.report import ImportReport
from draft_models.formats.source import Source, read_embedding, read_source
from draft_models.target import target_config


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft import`."""
    parser.add_argument("source", type=Path, help="the published draft's directory; its format is found out")
    parser.add_argument("target", type=Path, help="the target's directory; config.json is enough")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the imported draft goes")
    parser.add_argument("--taps", type=_taps, metavar="L,M,H", help="hidden_states indices, against the source's own")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status 1, and nothing written, if a tensor or a setting stands against it."""
    if (options.out / CONFIG).exists():
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
    """What the draft said of itself if we wrote it; else where it is from."""
    if written_by_us(source.config):
        return {name: value for name, value in source.config["aerie"].items() if name != "num_target_layers"}
    return {
        "imported": {
            "format": report.format,
            "source": str(source.directory),
            "sha256": {name: _sha256(source.directory / name) for name in source.files},
            "argv": sys.argv[1:],
        }
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _taps(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
