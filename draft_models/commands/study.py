# ruff: noqa: T201  it talks to a terminal
"""Train and measure a study's variants: `table2` (the paper's ablations) or `scaling` (tau against data).

Each variant is a run in OUT/<name>; a study that was interrupted goes on where it was. OUT/study.json holds the table.
"""

import argparse
from pathlib import Path

from draft_models.commands.options import positive
from draft_models.commands.text import rates
from draft_models.commands.train import Printer, add_run_options, experiment_of
from draft_models.errors import ConfigError
from draft_models.experiment import open_run
from draft_models.provenance import provenance
from draft_models.study import STUDIES, TABLE, row, write_table
from draft_models.target import target_config
from draft_models.world import join


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft study`."""
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a run per variant, and study.json")
    parser.add_argument("--depth", type=positive, default=5, metavar="N", help="of the chain that measures tau (5)")
    add_run_options(parser)


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    base, layers = experiment_of(options, options.out), target_config(options.target).num_hidden_layers
    origin, world, rows = provenance(), join(options.device), []
    if world.size > 1:
        raise ConfigError("a study trains in one process; run its variants with `aerie-draft train` on several")
    for variant in STUDIES[options.study]:
        trainer, summary = open_run(variant.of(base, layers), world)
        print(f"{variant.name}: {summary}", flush=True)
        trainer.run(Printer())
        rows.append(row(variant, trainer, options.depth))
    write_table(options.out / TABLE, options.study, origin, rows)
    for found in rows:
        print(f"{found['variant']:24} tau {found['held_out_tau']:.3f}  n-alpha {rates(found['n_alpha'])}")
    return 0
