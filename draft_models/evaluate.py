"""How good a draft is: tau of any tree and n-alpha of a chain, by decoding, per task, with confidence intervals.

Owns the measurement and its report. Refuses to own what is counted (acceptance.py) and how it is decoded (decode.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models.acceptance import Acceptance, tau_interval
from draft_models.data import Prompt
from draft_models.decode import decode, greedy, sampler
from draft_models.model import DraftModel
from draft_models.target import Target, chat_ids
from draft_models.tree import TreeShape


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    shape: TreeShape
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Report:
    """Acceptance of every prompt, by task."""

    setting: Setting
    per_prompt: dict[str, list[Acceptance]] = field(default_factory=dict)

    def add(self, task: str, acceptance: Acceptance) -> None:
        """One more prompt."""
        self.per_prompt.setdefault(task, []).append(acceptance)

    def rows(self) -> list[dict[str, Any]]:
        """One row per task, then all prompts together (`all`) and the tasks' mean (`mean`)."""
        tasks = [self._row(task, found) for task, found in self.per_prompt.items()]
        together = self._row("all", [one for found in self.per_prompt.values() for one in found])
        mean = {"task": "mean", "tau": sum(row["tau"] for row in tasks) / len(tasks)}
        return [*tasks, together, mean]

    def _row(self, task: str, found: Sequence[Acceptance]) -> dict[str, Any]:
        total, shape = sum(found, Acceptance()), self.setting.shape
        row = {
            "task": task,
            "prompts": len(found),
            "verify_passes": total.verify_passes,
            "correct_drafts": total.correct_drafts,
            "tau": total.tau,
            "tau_interval": tau_interval(found, self.setting.seed),
        }
        return row | ({"n_alpha": total.alphas(shape.num_steps)} if shape.eagle_topk == 1 else {})


def evaluate(
    target: Target,
    draft: DraftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    setting: Setting,
    on_prompt: Callable[[int, Acceptance], None] = lambda *_: None,
) -> Report:
    """Decode every prompt; `on_prompt` hears how many are done, and the last one's acceptance.

    Raises:
        DataError: a prompt does not fit the target's context.
    """
    eos, report = end_of_sequence(target), Report(setting)
    room = target.config.max_position_embeddings - setting.max_tokens
    choose = sampler(setting.temperature, setting.seed) if setting.temperature > 0 else greedy
    for done, prompt in enumerate(prompts, start=1):
        ids = chat_ids(tokenizer, prompt.text, room)
        decoded = decode(target, draft, ids, setting.max_tokens, eos, setting.shape, choose)
        report.add(prompt.task, decoded.acceptance)
        on_prompt(done, decoded.acceptance)
    return report


def end_of_sequence(target: Target) -> set[int]:
    """The ids that end an answer."""
    ids = target.model.generation_config.eos_token_id
    if ids is None:
        return set()
    return set(ids) if isinstance(ids, list) else {ids}
