"""A training run from files: target, rows, recipe and directory become a `Trainer`.

Owns which draft a run trains and where its files lie. Refuses to own the command line, and training itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models import vocab
from draft_models.answers import require_own
from draft_models.config import DraftConfig, TrainConfig
from draft_models.data import Row, digest, hold_out, key_digest, read_rows
from draft_models.model import DraftModel
from draft_models.provenance import provenance, relative
from draft_models.selection import overlap_with, without_overlap
from draft_models.target import FeatureCache, Target, load_tokenizer, target_config, target_digest, template_hash
from draft_models.trainer import STATE, Data, FeaturesOf, Trainer
from draft_models.world import World


@dataclass(frozen=True)
class Experiment:
    """What is trained on what."""

    target: Path
    data: tuple[Path, ...]
    out: Path
    recipe: TrainConfig
    cache: Path | None = None
    """Where features are kept, OUT/features without it."""
    recompute: bool = False
    """Compute features in every epoch instead of keeping them: for large targets on a GPU."""
    draft_vocab_size: int = 8192
    taps: tuple[int, ...] | None = None
    held_out: int = 64
    share: float = 1.0
    """Of the training rows, for scaling runs; the held-out rows stay the same."""
    exclude: tuple[Path, ...] = ()
    """Evaluation prompts: rows whose prompts overlap them are left out."""

    @property
    def begun(self) -> bool:
        """Whether OUT holds a saved state."""
        return (self.out / STATE).exists()


@dataclass(frozen=True)
class Summary:
    """What a run will train on, in numbers."""

    rows: int
    tokens: int
    held_out: int
    coverage: float
    left_out: tuple[str, ...] = ()
    """How many rows and why."""

    def __str__(self) -> str:
        parts = [
            f"{self.rows} rows, {self.tokens} tokens",
            f"{self.held_out} held out",
            f"the draft's vocabulary covers {self.coverage:.1%}",
            *(f"left out: {line}" for line in self.left_out),
        ]
        return "; ".join(parts)


def open_run(experiment: Experiment, world: World) -> tuple[Trainer, Summary]:
    """A trainer with fresh weights, or with those of OUT's saved state.

    Raises:
        DraftError: the target is not supported, the rows are broken, the saved state belongs to another run...
    """
    config = DraftConfig.from_target(target_config(experiment.target), experiment.draft_vocab_size, experiment.taps)
    tokenizer, own_digest = load_tokenizer(experiment.target), target_digest(experiment.target)
    template = template_hash(tokenizer)
    for path in experiment.data:
        require_own(path, own_digest, template)
    rows, left_out = _rows(experiment, config, tokenizer)
    kept, held = hold_out(rows, experiment.held_out)
    every = [*kept, *held]
    used = [*_part(kept, experiment.share), *range(len(kept), len(every))]
    chosen = [every[index] for index in used]
    training = chosen[: len(chosen) - len(held)]
    count_V = vocab.count_tokens(training, config.vocab_size)  # noqa: N806
    t2d_V = vocab.most_frequent(count_V, config.draft_vocab_size)  # noqa: N806
    summary = Summary(len(training), sum(map(len, training)), len(held), vocab.coverage(count_V, t2d_V), left_out)
    target = Target.load(experiment.target, config.taps).to(world.device)
    data = Data(chosen, len(held), _features(experiment, target, every, used))
    trainer = Trainer(
        DraftModel(config, vocab.offsets(t2d_V), t2d_V),
        target,
        experiment.recipe,
        data,
        experiment.out,
        _origin(experiment, own_digest, template, chosen, summary),
        world,
    )
    if experiment.begun:
        trainer.resume()
    else:
        trainer.initialise()
    return trainer, summary


def _rows(
    experiment: Experiment, config: DraftConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Row], tuple[str, ...]]:
    rows = read_rows(experiment.data, config.vocab_size, config.max_position_embeddings)
    if not experiment.exclude:
        return rows, ()
    rows, skipped = without_overlap(rows, tokenizer, overlap_with(experiment.exclude))
    return rows, tuple(skipped.lines())


def _part(rows: Sequence[Row], share: float) -> list[int]:
    """Indices of a share of the rows: a fair sample, and part of every larger one."""
    order = sorted(range(len(rows)), key=lambda index: key_digest(rows[index].key))
    return sorted(order[: max(1, round(share * len(rows)))])


def _features(experiment: Experiment, target: Target, rows: Sequence[Row], used: Sequence[int]) -> FeaturesOf:
    """Features of the rows with the indices `used`, of one cache for all of them."""
    if experiment.recompute:
        return lambda indices: target.features_of([rows[used[index]] for index in indices])
    cache = FeatureCache(target, rows, experiment.cache or experiment.out / "features", digest(rows))
    return lambda indices: cache([used[index] for index in indices])


def _origin(
    experiment: Experiment, digest_of_target: str, template: str, rows: Sequence[Row], summary: Summary
) -> dict[str, Any]:
    """Provenance that travels with the draft."""
    return provenance() | {
        "target": relative(experiment.target),
        "target_digest": digest_of_target,
        "chat_template_sha256": template,
        "data": [relative(path) for path in experiment.data],
        "exclude": [relative(path) for path in experiment.exclude],
        "rows_sha256": digest(rows),
        "training_tokens": summary.tokens,
        "vocab_coverage": summary.coverage,
        "recipe": experiment.recipe.model_dump(),
    }
