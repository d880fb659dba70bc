"""Acceptance of many trees from one recording: the target's answers, and which trees hold what follows each position.

    {"format": "aerie-acceptance-record/1", "widest": "6/8/64", ...provenance}
    {"task": "mt_bench", "prompt_tokens": 51, "answer_tokens": 128, "needed": {"3/4": [[2, 5], [], [2], ...], ...}}

`needed` is that of nested.py, by `num_steps/eagle_topk`. Of any tree S/K/N within the widest, a cycle that begins at a
position accepts as many drafts as its list has numbers up to N, and the next one begins behind them. One token per
request is not drafted: an answer's positions are one fewer than its tokens.

Owns the recording and the file's lines. Refuses to own the replay (nested.py), the models, and what a tree costs: load
tests measure that, and read this file (docs/tune.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from draft_models.acceptance import Acceptance, walk
from draft_models.decode import decode_plain
from draft_models.evaluate import Setting, fitting_ids
from draft_models.model import DraftModel
from draft_models.nested import Needed, needed_tokens
from draft_models.prompts import EvaluationPrompt
from draft_models.target import Target, end_of_sequence
from draft_models.tree import TreeShape
from draft_models.verify import Sampling

FORMAT = "aerie-acceptance-record/1"


@dataclass(frozen=True)
class Recorded:
    """One prompt's answer."""

    task: str
    prompt_tokens: int
    answer_tokens: int
    needed: Needed

    def acceptance(self, shape: TreeShape) -> Acceptance:
        """What decoding with this tree accepts."""
        needed = self.needed[shape.num_steps, shape.eagle_topk]
        leading = [sum(tokens <= shape.num_draft_tokens for tokens in path) for path in needed]
        return Acceptance.of(walk(leading, 0, self.answer_tokens - 1))

    def line(self) -> dict[str, Any]:
        """Of the file."""
        needed = {f"{steps}/{topk}": paths for (steps, topk), paths in self.needed.items()}
        return {
            "task": self.task,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "needed": needed,
        }


def record(
    target: Target,
    draft: DraftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EvaluationPrompt],
    setting: Setting,
    on_prompt: Callable[[Recorded], None] = lambda _: None,
) -> Iterator[Recorded]:
    """Answer every prompt once and replay all trees within `setting.shape`; `on_prompt` hears of each.

    Sampled, prompt i is answered with seed + i, as `evaluate` does.

    Raises:
        DataError: as for `evaluate`.
    """
    eos = end_of_sequence(target.model.generation_config)
    for index, prompt in enumerate(prompts):
        ids = fitting_ids(target, tokenizer, prompt, setting.max_tokens)
        sampling = Sampling.seeded(setting.temperature, setting.seed + index)
        answer = decode_plain(target, ids, setting.max_tokens, eos, sampling).ids
        needed = needed_tokens(target, draft, ids, answer, setting.shape)
        recorded = Recorded(prompt.task, len(ids), len(answer), needed)
        on_prompt(recorded)
        yield recorded
