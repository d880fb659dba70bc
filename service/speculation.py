"""What Aerie knows about speculative decoding: the settings, their rules, SGLang's flags and tau.

Owns `SpeculativeConfig` (one frozen, validated model), the rules that tie it to the rest of a runtime's settings, the
translation into SGLang's `--speculative-*` flags, and the one definition of acceptance length. Refuses to own anything
that opens a file, a socket or a process. Rules are those of SGLang 0.5.23, `srt/arg_groups/speculative_hook.py`.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, Field, model_validator


class Algorithm(StrEnum):
    """How drafts are made. NONE is plain decoding: the honest baseline."""

    NONE = "NONE"
    EAGLE = "EAGLE"
    EAGLE3 = "EAGLE3"
    NEXTN = "NEXTN"
    STANDALONE = "STANDALONE"
    NGRAM = "NGRAM"


NEEDS_DRAFT = frozenset({Algorithm.EAGLE, Algorithm.EAGLE3, Algorithm.NEXTN, Algorithm.STANDALONE})
TREE_NUMBERS = ("num_steps", "eagle_topk", "num_draft_tokens")
FOLLOWING = ("adaptive", "draft_p_min")
"""What makes drafts follow the batch size; a profile's, so that it goes with the profile's tree."""
ADAPTIVE = frozenset({Algorithm.EAGLE, Algorithm.EAGLE3})
PAGED_TREE_BACKENDS = ("flashinfer", "fa3", "triton")


def max_tree_size(num_steps: int, eagle_topk: int) -> int:
    """Nodes an EAGLE-2/3 tree can have, the root included.

    The first step proposes topk nodes, every later step topk continuations of each of the topk best
    (EAGLE-2, arXiv 2406.16858, section 4.1; `organize_draft_results` in srt/speculative/eagle_utils.py).
    """
    return 1 + eagle_topk + (num_steps - 1) * eagle_topk**2


def tree_text(numbers: Iterable[object], *, adaptive: bool) -> str:
    """`num_steps/eagle_topk/num_draft_tokens`, and whether drafts follow the batch size from there."""
    return "/".join(map(str, numbers)) + (", adaptive" if adaptive else "")


def acceptance_length(correct_drafts: int, verify_passes: int) -> float:
    """Tau: tokens per drafting-verification cycle, the bonus token included, so never below 1.

    Args:
        correct_drafts: draft tokens the target accepted, summed over the passes.
        verify_passes: verification forward passes of the target.

    Raises:
        ValueError: without a verify pass there is no acceptance length.
    """
    if verify_passes < 1:
        raise ValueError(f"acceptance length needs at least one verify pass, got {verify_passes}")
    if correct_drafts < 0:
        raise ValueError(f"correct_drafts cannot be negative, got {correct_drafts}")
    return 1 + correct_drafts / verify_passes


class SpeculativeConfig(BaseModel, frozen=True, extra="forbid"):
    """One speculation setting: the algorithm, its draft tree and its draft model.

    `num_draft_tokens` counts the root: EAGLE's `depth d, top_k k, total_token N` is `num_steps = d + 1`,
    `eagle_topk = k`, `num_draft_tokens = N`. For NGRAM `eagle_topk` is the breadth of the match tree.

    `adaptive` lets a chain's length follow the batch size: from each batch size on, the `num_steps` that may be used
    there, 0 for no drafting. Among several SGLang takes what the recent acceptance length suggests.

    `draft_p_min` lets a tree's size follow the batch size and the draft's confidence, on CPU: from each batch size on,
    how likely a node must be to be accepted, by the draft's own estimate, to be verified. The three numbers are then
    the most a tree may have.
    """

    algorithm: Algorithm
    num_steps: int | None = Field(default=None, ge=1, le=64)
    eagle_topk: int | None = Field(default=None, ge=1, le=64)
    num_draft_tokens: int | None = Field(default=None, ge=2, le=1024)
    draft: str | None = Field(default=None, min_length=1)
    adaptive: Mapping[int, tuple[int, ...]] | None = None
    draft_p_min: Mapping[int, float] | None = None

    @classmethod
    def none(cls) -> Self:
        """Plain decoding."""
        return cls(algorithm=Algorithm.NONE)

    @property
    def enabled(self) -> bool:
        """Whether tokens are drafted at all."""
        return self.algorithm is not Algorithm.NONE

    @property
    def tree(self) -> str:
        """`num_steps/eagle_topk/num_draft_tokens`, as people write trees; `-` for plain decoding."""
        if not self.enabled:
            return "-"
        follows = any(getattr(self, name) is not None for name in FOLLOWING)
        return tree_text((self.num_steps, self.eagle_topk, self.num_draft_tokens), adaptive=follows)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm is Algorithm.NONE:
            self._check_nothing_else_is_set()
            return self
        self._check_draft()
        num_steps, eagle_topk, num_draft_tokens = self._tree_numbers()
        if self.algorithm is not Algorithm.NGRAM:
            _check_eagle_tree(num_steps, eagle_topk, num_draft_tokens)
        if self.adaptive is not None:
            self._check_adaptive(self.adaptive)
        if self.draft_p_min is not None:
            self._check_draft_p_min(self.draft_p_min)
        return self

    def _check_adaptive(self, adaptive: Mapping[int, tuple[int, ...]]) -> None:
        if self.algorithm not in ADAPTIVE or self.eagle_topk != 1:
            raise ValueError(
                "adaptive: SGLang varies the length of EAGLE and EAGLE3 chains only; use eagle_topk=1, or leave it out"
            )
        for batch_size, lengths in adaptive.items():
            if (
                batch_size < 1
                or not lengths
                or list(lengths) != sorted({*lengths})
                or not 0 <= lengths[0] <= lengths[-1] <= 64
            ):
                raise ValueError(
                    f"adaptive: {batch_size}: {list(lengths)} is no row; from each batch size on, the lengths that may "
                    "be used, in ascending order, 0 to 64: {1: [3], 8: [0, 1]}"
                )
        if 1 not in adaptive or self.num_steps not in {length for lengths in adaptive.values() for length in lengths}:
            raise ValueError(
                f"adaptive: needs a row for batch size 1, and num_steps={self.num_steps}, which SGLang starts with"
            )

    def _check_draft_p_min(self, draft_p_min: Mapping[int, float]) -> None:
        if self.algorithm is not Algorithm.EAGLE3 or self.adaptive is not None:
            raise ValueError("draft_p_min: EAGLE3 trees only, and not beside adaptive; leave it out")
        for batch_size, least in draft_p_min.items():
            if batch_size < 1 or not 0 <= least < 1:
                raise ValueError(
                    f"draft_p_min: {batch_size}: {least} is no row; from each batch size on, the least probability of "
                    "a token that is verified, 0 or more and below 1: {1: 0.05, 8: 0.25}"
                )
        if 1 not in draft_p_min:
            raise ValueError("draft_p_min: needs a row for batch size 1; 0 verifies whole trees: {1: 0, 8: 0.25}")

    def _check_nothing_else_is_set(self) -> None:
        for name in (*TREE_NUMBERS, "draft", *FOLLOWING):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: algorithm NONE drafts nothing; leave {name} out, or choose EAGLE3")

    def _check_draft(self) -> None:
        if self.algorithm in NEEDS_DRAFT and self.draft is None:
            raise ValueError(
                f"draft: {self.algorithm} needs a draft model (without one SGLang loads the target as its own draft "
                "and crashes); name a directory or repository: draft=draft_models/smollm2-135m-instruct-eagle3, or, "
                "for NEXTN with a target that has an MTP layer of its own, the target"
            )
        if self.algorithm is Algorithm.NGRAM and self.draft is not None:
            raise ValueError("draft: NGRAM drafts from the prompt and has no draft model; leave draft out")

    def _tree_numbers(self) -> tuple[int, int, int]:
        if self.num_steps is None or self.eagle_topk is None or self.num_draft_tokens is None:
            missing = next(name for name in TREE_NUMBERS if getattr(self, name) is None)
            raise ValueError(
                f"{missing}: {self.algorithm} needs all three tree numbers (SGLang would choose its own); "
                "a chain is num_steps=3, eagle_topk=1, num_draft_tokens=4, a tree 3, 4, 8"
            )
        return self.num_steps, self.eagle_topk, self.num_draft_tokens


def _check_eagle_tree(num_steps: int, eagle_topk: int, num_draft_tokens: int) -> None:
    if eagle_topk == 1 and num_draft_tokens != num_steps + 1:
        raise ValueError(
            f"num_draft_tokens: a chain (eagle_topk=1) has num_steps + 1 tokens, the root included; "
            f"{num_draft_tokens} does not fit num_steps={num_steps}: use num_draft_tokens={num_steps + 1}"
        )
    if num_draft_tokens < num_steps + 1:
        raise ValueError(
            f"num_draft_tokens: {num_draft_tokens} tokens cannot reach a depth of {num_steps} steps; "
            f"use num_draft_tokens={num_steps + 1} or more, or num_steps={num_draft_tokens - 1}"
        )
    largest = max_tree_size(num_steps, eagle_topk)
    if num_draft_tokens > largest:
        raise ValueError(
            f"num_draft_tokens: num_steps={num_steps} with eagle_topk={eagle_topk} proposes at most {largest} nodes; "
            f"use num_draft_tokens={largest} or fewer"
        )


def check_attention(config: SpeculativeConfig, *, attention_backend: str | None, page_size: int) -> None:
    """Rules that tie the tree to the attention backend.

    Raises:
        ValueError: SGLang would refuse this combination at start-up, or compute a wrong result.
    """
    if not config.enabled or config.eagle_topk is None or config.eagle_topk == 1:
        return
    if attention_backend == "trtllm_mha":
        raise ValueError("eagle_topk: attention backend trtllm_mha verifies chains only; use eagle_topk=1, or fa3")
    backends = ("flashinfer",) if config.algorithm is Algorithm.NGRAM else PAGED_TREE_BACKENDS
    if page_size > 1 and attention_backend not in backends:
        raise ValueError(
            f"page_size: a tree (eagle_topk={config.eagle_topk}) over pages of {page_size} tokens works with "
            f"{', '.join(backends)} only, not {attention_backend or 'the default backend'}; use page_size=1"
        )


def sglang_flags(config: SpeculativeConfig) -> list[str]:
    """The `--speculative-*` part of SGLang's command line: all three tree numbers, always."""
    if not config.enabled:
        return []
    flags = {
        "algorithm": config.algorithm.value,
        "num-steps": str(config.num_steps),
        "eagle-topk": str(config.eagle_topk),
        "num-draft-tokens": str(config.num_draft_tokens),
    }
    if config.draft is not None:
        flags["draft-model-path"] = config.draft
    if config.algorithm is Algorithm.NGRAM:  # SGLang overwrites eagle-topk with the breadth of the match tree
        flags["ngram-max-bfs-breadth"] = str(config.eagle_topk)
    return [part for name, value in flags.items() for part in (f"--speculative-{name}", value)]
