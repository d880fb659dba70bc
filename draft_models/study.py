"""Runs side by side: the ablations of the paper's Table 2, and tau against the amount of data (Figure 1).

Owns which variants a study has, and its table. Every variant is trained as any draft is (experiment.py) and measured
on the same held-out answers with a chain of the same depth. Refuses to own the command line and plots.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from draft_models.checkpoint import write_text_whole
from draft_models.config import TrainConfig
from draft_models.experiment import Experiment
from draft_models.trainer import Trainer

TABLE = "study.json"


@dataclass(frozen=True)
class Variant:
    """A change to an experiment."""

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    top_layer: bool = False
    """Whether the draft reads the target's top-layer feature, as EAGLE does, instead of low, middle and high ones."""
    share: float = 1.0

    def of(self, base: Experiment, layers: int) -> Experiment:
        """The experiment with this change, in a directory of its own; features are kept where the taps are alike."""
        taps = (layers,) if self.top_layer else base.taps
        return replace(
            base,
            recipe=TrainConfig(**base.recipe.model_dump() | self.recipe),
            out=base.out / self.name,
            cache=base.cache or base.out / "features",
            taps=taps,
            share=self.share,
        )


TABLE_2 = (
    Variant("eagle", {"num_steps": 1, "feature_weight": 10.0}, top_layer=True),
    Variant("hass", {"num_steps": 3, "feature_weight": 10.0}, top_layer=True),
    Variant("no-feature-constraint", top_layer=True),
    Variant("fused-features"),
)
"""Table 2 of the paper, and HASS (arXiv 2408.15766) between its rows.

EAGLE trains one step on the top layer's feature, with a feature loss beside the token loss (1 to 0.1); HASS unrolls
three steps of that; EAGLE-3 drops the feature loss, and then fuses features of three layers.
"""

SCALING = tuple(Variant(f"data-{share:g}", share=share) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1))
"""Figure 1: the same recipe on nested parts of the data."""

STUDIES = {"table2": TABLE_2, "scaling": SCALING}


def row(variant: Variant, trainer: Trainer, depth: int) -> dict[str, Any]:
    """One line of the study's table, measured on the draft at the end of its run."""
    acceptance, _ = trainer.measure_held_out(depth)
    return {
        "variant": variant.name,
        "share": variant.share,
        "training_tokens": trainer.training_tokens,
        "token_passes": trainer.run_state.tokens,
        "held_out_tau": acceptance.tau,
        "n_alpha": acceptance.alphas(depth),
        "hours": round(trainer.run_state.seconds / 3600, 3),
    }


def write_table(path: Path, study: str, origin: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Rows with their provenance, as JSON."""
    write_text_whole(path, json.dumps({"study": study, "provenance": origin, "rows": list(rows)}, indent=2) + "\n")
