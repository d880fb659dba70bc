"""A training run from files: target, rows, recipe and directory become a `Trainer`.

Owns which draft a run trains and where its files lie. Refuses to own the command line, and training itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from draft_models import vocab
from draft_models.answers import require_own
from draft_models.checkpoint import CONFIG, WEIGHTS, load_draft, read_json
from draft_models.config import DraftConfig, TrainConfig
from draft_models.data import Row, hold_out, key_digest, padded_length, read_rows
from draft_models.errors import ConfigError
from draft_models.feature_cache import FeatureCache
from draft_models.model import DraftModel
from draft_models.provenance import file_sha256, provenance, relative
from draft_models.selection import overlap_with, without_overlap
from draft_models.target import Features, Target, load_tokenizer, target_config, target_digest, template_hash
from draft_models.trainer import STATE, Data, FeaturesOf, Trainer
from draft_models.world import World

DRAFT_VOCAB_SIZE = 8192


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
    init: Path | None = None
    """A draft to go on from; its taps and its vocabulary stay."""
    draft_vocab_size: int | None = None
    """8,192 without it."""
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
    parent = _parent(experiment)
    config = parent.config if parent else _config(experiment)
    tokenizer, own_digest = load_tokenizer(experiment.target), target_digest(experiment.target)
    template = template_hash(tokenizer)
    for path in experiment.data:
        require_own(path, own_digest, template)
    rows, left_out = _rows(experiment, config, tokenizer)
    kept, held = hold_out(rows, experiment.held_out)
    training = _part(kept, experiment.share)
    chosen = [*training, *held]
    count_V = vocab.count_tokens(training, config.vocab_size)  # noqa: N806
    draft = parent or _fresh(config, vocab.most_frequent(count_V, config.draft_vocab_size))
    coverage = vocab.coverage(count_V, draft.t2d)
    summary = Summary(len(training), sum(map(len, training)), len(held), coverage, left_out)
    target = Target.load(experiment.target, config.taps).to(world.device)
    data = Data(chosen, len(held), _features(experiment, target, chosen))
    trainer = Trainer(
        draft,
        target,
        experiment.recipe,
        data,
        experiment.out,
        _origin(experiment, own_digest, template, data.digest, summary),
        world,
    )
    if experiment.begun:
        trainer.resume()
    elif parent is None:
        trainer.initialise()
    return trainer, summary


def _config(experiment: Experiment) -> DraftConfig:
    size = experiment.draft_vocab_size or DRAFT_VOCAB_SIZE
    return DraftConfig.from_target(target_config(experiment.target), size, experiment.taps)


def _fresh(config: DraftConfig, t2d_V: Tensor) -> DraftModel:  # noqa: N803
    return DraftModel(config, vocab.offsets(t2d_V), t2d_V)


def _parent(experiment: Experiment) -> DraftModel | None:
    """The draft to go on from.

    Raises:
        CheckpointError: it is missing or broken.
        ConfigError: it is another target's, or not what else was asked for.
    """
    if experiment.init is None:
        return None
    target = target_config(experiment.target)
    draft = load_draft(experiment.init, target.num_hidden_layers)
    wanted = {
        "hidden_size": target.hidden_size,
        "vocab_size": target.vocab_size,
        "draft_vocab_size": experiment.draft_vocab_size,
        "taps": experiment.taps,
    }
    found = {name: getattr(draft.config, name) for name in wanted}
    faults = [
        f"{name} {found[name]}, not {value}" for name, value in wanted.items() if value not in (None, found[name])
    ]
    if faults:
        raise ConfigError(
            f"--init {experiment.init}: it has {'; '.join(faults)}; a draft that is gone on with stays so"
        )
    return draft


def _rows(
    experiment: Experiment, config: DraftConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Row], tuple[str, ...]]:
    rows = read_rows(experiment.data, config.vocab_size, config.max_position_embeddings)
    if not experiment.exclude:
        return rows, ()
    rows, skipped = without_overlap(rows, tokenizer, overlap_with(experiment.exclude))
    return rows, tuple(skipped.lines())


def _part(rows: Sequence[Row], share: float) -> list[Row]:
    """A share of the rows, in their order: a fair sample, and part of every larger one."""
    order = sorted(range(len(rows)), key=lambda index: key_digest(rows[index].key))
    return [rows[index] for index in sorted(order[: max(1, round(share * len(rows)))])]


def _features(experiment: Experiment, target: Target, rows: Sequence[Row]) -> FeaturesOf:
    if experiment.recompute:
        tokens = experiment.recipe.batch_tokens

        def computed(indices: Sequence[int]) -> tuple[Tensor, Features]:
            found = [rows[index] for index in indices]
            return target.features_of(found, padded_length(max(map(len, found)), tokens))

        return computed
    return FeatureCache(target, rows, experiment.cache or experiment.out / "features")


def _origin(
    experiment: Experiment, digest_of_target: str, template: str, rows_digest: str, summary: Summary
) -> dict[str, Any]:
    """Provenance that travels with the draft."""
    return provenance() | {
        "target": relative(experiment.target),
        "target_digest": digest_of_target,
        "chat_template_sha256": template,
        "data": [relative(path) for path in experiment.data],
        "exclude": [relative(path) for path in experiment.exclude],
        "rows_sha256": rows_digest,
        "training_tokens": summary.tokens,
        "vocab_coverage": summary.coverage,
        "recipe": experiment.recipe.model_dump(),
        **({"init": _lineage(experiment.init)} if experiment.init else {}),
    }


def _lineage(draft: Path) -> dict[str, Any]:
    """Which draft was gone on from, and where that one came from."""
    return {"weights_sha256": file_sha256(draft / WEIGHTS), **read_json(draft / CONFIG).get("aerie", {})}
