# ruff: noqa: T201  it talks to a terminal
"""Train a draft on the target's own answers; the best by measured tau is OUT/draft, in SGLang's format.

On a GPU if torch sees one; on several with `torchrun --nproc-per-node N -m draft_models.cli train ...` (FSDP).
"""

import argparse
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from draft_models.commands.options import positive, taps
from draft_models.commands.text import rates
from draft_models.config import TrainConfig, sentences
from draft_models.errors import ConfigError
from draft_models.experiment import DRAFT_VOCAB_SIZE, Experiment, open_run
from draft_models.run_log import Progress, Validation
from draft_models.trainer import DRAFT
from draft_models.world import join, leave

PROGRESS_EVERY_S = 15.0
NOT_OPTIONS = ("betas", "compute_dtype")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft train`."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run: state, log, best draft")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's last saved state")
    parser.add_argument("--init", type=Path, metavar="DRAFT", help="a draft to go on from (random weights)")
    parser.add_argument("--taps", type=taps, metavar="L,M,H", help="hidden_states indices (2, n/2, n-3)")
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every command that trains takes: target, data, device, recipe."""
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="Hugging Face format")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL of answers")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="FILE", help="evaluation prompts, JSONL")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to train (cuda if torch sees one)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="the target's features (OUT/features)")
    parser.add_argument("--recompute", action="store_true", help="compute features every epoch, keep none on disk")
    parser.add_argument(
        "--draft-vocab-size", type=positive, metavar="N", help=f"tokens the draft can propose ({DRAFT_VOCAB_SIZE})"
    )
    parser.add_argument(
        "--held-out", type=positive, default=64, metavar="N", help="greedy answers to measure tau on (64)"
    )
    for name, settings in TrainConfig.model_fields.items():
        if name not in NOT_OPTIONS:
            kind = type(settings.default)
            text = f"{settings.description or 'see TrainConfig'} ({settings.default})"
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)


def experiment_of(options: argparse.Namespace, out: Path, **changes: Any) -> Experiment:  # noqa: ANN401  any field
    """The run these options describe."""
    names = ("target", "cache", "recompute", "draft_vocab_size", "held_out")
    given = {name: getattr(options, name) for name in names}
    files = {"data": tuple(options.data), "exclude": tuple(options.exclude), "out": out}
    return Experiment(**given | files | {"recipe": recipe_of(options)} | changes)


def recipe_of(options: argparse.Namespace) -> TrainConfig:
    """Raises ConfigError: a value is out of its range."""
    given: dict[str, Any] = {name: getattr(options, name) for name in TrainConfig.model_fields if name in options}
    try:
        return TrainConfig(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(sentences(error)) from error


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    experiment = experiment_of(options, options.out, taps=options.taps, init=options.init)
    if not options.resume and experiment.begun:
        raise ConfigError(f"{options.out}: holds a run; --resume goes on with it, another --out starts a new one")
    if options.resume and not experiment.begun:
        raise ConfigError(f"{options.out}: no saved state to resume; leave --resume out to start")
    world = join(options.device)
    try:
        trainer, summary = open_run(experiment, world)
        if not world.first:
            trainer.run()
            return 0
        print(summary)
        trainer.run(Printer())
        steps, draft = experiment.recipe.num_steps, experiment.out / DRAFT
        print(f"best held-out tau {trainer.run_state.best_tau:.3f} (chain of {steps}): {draft}")
    finally:
        leave()
    return 0


class Printer:
    """A line every so often, and one for every validation."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, line: Progress | Validation) -> None:
        """Say it, or not yet."""
        if isinstance(line, Validation):
            print(f"held out: tau {line.tau:.3f}, n-alpha {rates(line.n_alpha)}", flush=True)
        elif time.monotonic() - self.last > PROGRESS_EVERY_S:
            self.last = time.monotonic()
            print(
                f"batch {line.batch}/{line.batches}  loss {line.loss:.3f}  hits {rates(line.alphas)}  "
                f"{line.tokens_per_s:.0f} tokens/s  {line.eta_s / 60:.0f} min left",
                flush=True,
            )
