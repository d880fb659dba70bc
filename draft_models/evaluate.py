"""How good a draft is: tau of any tree and n-alpha of a chain, by decoding, with confidence intervals.

Acceptance differs by kind of text and by length of prompt (it falls where a draft has seen no such positions), so it is
reported for both. Owns the measurement and its report. Refuses to own what is counted (acceptance.py), how it is
decoded (decode.py), and where a report comes from (provenance.py).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models.acceptance import Acceptance, alpha_intervals, mean_tau_interval, tau_interval
from draft_models.decode import decode
from draft_models.errors import ConfigError, DataError
from draft_models.model import DraftModel
from draft_models.prompts import EvaluationPrompt
from draft_models.target import Target, end_of_sequence
from draft_models.template import prompt_ids
from draft_models.tree import TreeShape
from draft_models.verify import Rule, Sampling

PROMPT_TOKEN_EDGES = (128, 256, 512, 1024)
"""Where a bucket of prompt lengths ends and the next begins, chat template included."""

ALPHAS = TreeShape.chain(6)
"""0-alpha to 5-alpha, as in the paper's Figure 7."""

ALL = "all"


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Raises:
        ConfigError: max_tokens leaves nothing to draft, or the temperature is negative.
    """

    shape: TreeShape
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    rule: Rule = "target-draw"

    def __post_init__(self) -> None:
        if self.max_tokens < 2:  # the first token is not drafted
            raise ConfigError(f"max_tokens {self.max_tokens}: an answer needs at least 2 tokens to be measured")
        if self.temperature < 0:
            raise ConfigError(f"temperature {self.temperature} is negative; 0 is greedy")


@dataclass(frozen=True)
class Measured:
    """One prompt's decoding."""

    task: str
    prompt_tokens: int
    acceptance: Acceptance

    @property
    def bucket(self) -> str:
        """The prompt's bucket of lengths: `<128`, `128-255`, ... `1024+`."""
        place = bisect_right(PROMPT_TOKEN_EDGES, self.prompt_tokens)
        if place == 0:
            return f"<{PROMPT_TOKEN_EDGES[0]}"
        if place == len(PROMPT_TOKEN_EDGES):
            return f"{PROMPT_TOKEN_EDGES[-1]}+"
        return f"{PROMPT_TOKEN_EDGES[place - 1]}-{PROMPT_TOKEN_EDGES[place] - 1}"


@dataclass
class Report:
    """Acceptance of every prompt under one setting."""

    setting: Setting
    measured: list[Measured] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row per task, one per bucket of prompt lengths, one for everything, and the tasks' mean tau."""
        by_task = _grouped(self.measured, lambda one: one.task)
        by_length = _grouped(sorted(self.measured, key=lambda one: one.prompt_tokens), lambda one: one.bucket)
        tasks = [self._row(task, ALL, found) for task, found in by_task.items()]
        lengths = [self._row(ALL, bucket, found) for bucket, found in by_length.items()]
        mean = {
            "tree": str(self.setting.shape),
            "task": "mean",
            "prompt_tokens": ALL,
            "tau": sum(row["tau"] for row in tasks) / len(tasks),
            "tau_interval": mean_tau_interval(
                [[one.acceptance for one in found] for found in by_task.values()], self.setting.seed
            ),
        }
        return [*tasks, *lengths, self._row(ALL, ALL, self.measured), mean]

    def _row(self, task: str, prompt_tokens: str, measured: Sequence[Measured]) -> dict[str, Any]:
        found = [one.acceptance for one in measured]
        total, shape, seed = sum(found, Acceptance()), self.setting.shape, self.setting.seed
        row = {
            "tree": str(shape),
            "task": task,
            "prompt_tokens": prompt_tokens,
            "prompts": len(found),
            "verify_passes": total.verify_passes,
            "correct_drafts": total.correct_drafts,
            "tau": total.tau,
            "tau_interval": tau_interval(found, seed),
        }
        if shape.eagle_topk == 1:  # n-alpha is defined on chains
            row["n_alpha"] = total.alphas(shape.num_steps)
            row["n_alpha_intervals"] = alpha_intervals(found, shape.num_steps, seed)
        return row


def evaluate(
    target: Target,
    draft: DraftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvaluationPrompt],
    setting: Setting,
    on_prompt: Callable[[Measured], None] = lambda _: None,
) -> Report:
    """Decode every prompt; `on_prompt` hears of each.

    Sampled, prompt i is decoded with seed + i whatever the tree is: by target-draw every tree yields the same text.

    Raises:
        DataError: a prompt and its answer do not fit the target's context, or its chat template refuses the prompt.
    """
    eos, report = end_of_sequence(target.model.generation_config), Report(setting)
    for index, prompt in enumerate(prompts):
        ids = fitting_ids(target, tokenizer, prompt, setting.max_tokens)
        sampling = Sampling.seeded(setting.temperature, setting.seed + index)
        decoded = decode(target, draft, ids, setting.max_tokens, eos, setting.shape, sampling, setting.rule)
        report.measured.append(Measured(prompt.task, len(ids), decoded.acceptance))
        on_prompt(report.measured[-1])
    return report


def fitting_ids(
    target: Target, tokenizer: PreTrainedTokenizerBase, prompt: EvaluationPrompt, max_tokens: int
) -> list[int]:
    """A prompt as the target reads it.

    Raises:
        DataError: it and its answer do not fit the target's context, or the chat template refuses it.
    """
    ids, context = prompt_ids(tokenizer, prompt.messages), target.config.max_position_embeddings
    if len(ids) + max_tokens >= context:
        raise DataError(
            f"{prompt.place}: a prompt of {len(ids)} tokens and an answer of up to {max_tokens}: that "
            f"does not fit the target's context of {context}; leave the prompt out, or lower --max-tokens"
        )
    return ids


def _grouped(measured: Iterable[Measured], key: Callable[[Measured], str]) -> dict[str, list[Measured]]:
    """By key, in the order in which keys are met."""
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        groups.setdefault(key(one), []).append(one)
    return groups
