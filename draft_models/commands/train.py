# ruff: noqa: T201  it talks to a terminal
"""Train a draft on the target's own answers; the best by measured tau is OUT/draft, in SGLang's format."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError

from draft_models import vocab
from draft_models.commands.text import rates
from draft_models.config import DraftConfig, TrainConfig, sentences
from draft_models.data import digest, hold_out, read_rows
from draft_models.errors import ConfigError
from draft_models.model import DraftModel
from draft_models.target import FeatureCache, Target, load_tokenizer, target_config, template_hash
from draft_models.trainer import STATE, Data, Progress, Trainer, Validation, count_tokens

PROGRESS_EVERY_S = 15.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft train`."""
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="Hugging Face format")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="JSONL of answers")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run: state, log, best draft")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="the target's features (OUT/features)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's last saved state")
    parser.add_argument("--draft-vocab-size", type=int, default=8192, metavar="N", help="tokens the draft can propose")
    parser.add_argument("--taps", type=_taps, metavar="L,M,H", help="hidden_states indices (2, n/2, n-3)")
    parser.add_argument("--held-out", type=int, default=64, metavar="N", help="greedy answers to measure tau on (64)")
    for name, settings in TrainConfig.model_fields.items():
        if name in ("betas", "compute_dtype"):
            continue
        kind = type(settings.default)
        text = f"{settings.description or 'see TrainConfig'} ({settings.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a DraftError."""
    out: Path = options.out
    if not options.resume and (out / STATE).exists():
        raise ConfigError(f"{out}: holds a run; --resume goes on with it, another --out starts a new one")
    recipe = _recipe(options)
    config = DraftConfig.from_target(target_config(options.target), options.draft_vocab_size, options.taps)
    rows, held = hold_out(read_rows(options.data, config.vocab_size, config.max_position_embeddings), options.held_out)
    every = [*rows, *held]
    count_V = count_tokens(rows, config.vocab_size)  # noqa: N806
    t2d_V = vocab.most_frequent(count_V, config.draft_vocab_size)  # noqa: N806
    coverage = vocab.coverage(count_V, t2d_V)
    tokens = sum(map(len, rows))
    print(f"{len(rows)} rows, {tokens} tokens; {len(held)} held out; the draft's vocabulary covers {coverage:.1%}")
    target = Target.load(options.target, config.taps)
    features = FeatureCache(target, every, options.cache or out / "features", digest(every))
    provenance = {
        "target": str(options.target),
        "chat_template_sha256": template_hash(load_tokenizer(options.target)),
        "data": [str(path) for path in options.data],
        "rows_sha256": digest(every),
        "vocab_coverage": coverage,
        "recipe": recipe.model_dump(),
        "argv": sys.argv[1:],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    draft = DraftModel(config, vocab.offsets(t2d_V), t2d_V)
    trainer = Trainer(draft, target, recipe, Data(every, len(held), features), out, provenance)
    if options.resume:
        trainer.resume()
    else:
        trainer.initialise()
    trainer.run(_Printer())
    print(f"best held-out tau {trainer.run_state.best_tau:.3f} (chain of {recipe.num_steps}): {out / 'draft'}")
    return 0


class _Printer:
    """A line every so often, and one for every validation."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, line: Progress | Validation) -> None:
        if isinstance(line, Validation):
            print(f"held out: tau {line.tau:.3f}, n-alpha {rates(line.n_alpha)}", flush=True)
        elif time.monotonic() - self.last > PROGRESS_EVERY_S:
            self.last = time.monotonic()
            print(
                f"batch {line.batch}/{line.batches}  loss {line.loss:.3f}  hits {rates(line.alphas)}  "
                f"{line.tokens_per_s:.0f} tokens/s  {line.eta_s / 60:.0f} min left",
                flush=True,
            )


def _recipe(options: argparse.Namespace) -> TrainConfig:
    given: dict[str, Any] = {name: getattr(options, name) for name in TrainConfig.model_fields if name in options}
    try:
        return TrainConfig(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(sentences(error)) from error


def _taps(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
