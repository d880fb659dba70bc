"""The comparison file, `aerie-comparison/1`: what paired runs of two sides leave, whole or as far as they came.

Owns the fields. Refuses to own how they are measured (compare.py) and their looks (comparison_text.py, report/).
"""

from typing import Annotated, Literal

from pydantic import Field

from loadtest.document import AcceptanceLength, Count, Document, Interval, NotNegative, Part, Positive, Sha256, Words

QUANTILES = 21
"""0%, 5%, ... 100%."""

ALL = "all"
"""In place of a task: the geometric mean over the tasks."""

Quantiles = Annotated[tuple[NotNegative, ...], Field(min_length=QUANTILES, max_length=QUANTILES)]


class Described(Part):
    """A side: its words on the command line, and what its runtime says of itself, if it does."""

    endpoint: Words
    sglang_version: Words | None = None
    device: Words | None = None
    algorithm: Words | None = None
    """None: plain decoding, or not told."""
    tree: Words | None = None
    """num_steps/eagle_topk/num_draft_tokens."""


class Task(Part):
    """A file of prompts."""

    name: Words
    sha256: Sha256


class Workload(Part):
    """What was asked of both sides."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    max_tokens: Count
    temperature: NotNegative
    rounds: Count
    passes: Count

    @property
    def repeats(self) -> int:
        """How often every answer was measured: greedy or drawn with one seed, it is the same in every round."""
        return self.rounds


class Measured(Part):
    """One side at one batch size of one task."""

    tokens_per_s: Positive
    """Of the whole batch; the rounds' median."""
    rounds: tuple[Positive, ...]
    """The same, of each round."""
    token_s: Positive
    """Seconds per token of one request while all decode."""
    acceptance_length: AcceptanceLength | None = None
    verify_passes: Count | None = None
    accepted_by_position: tuple[int, ...] = ()
    """Passes that accepted the first draft, the second, and so on."""
    ttft_s: Quantiles | None = None
    tpot_s: Quantiles | None = None
    e2e_s: Quantiles | None = None


class Cell(Part):
    """Both sides at one batch size of one task."""

    task: Words
    batch_size: Count
    a: Measured
    b: Measured
    speedup: Interval
    """a's throughput over b's; the median of the rounds' ratios."""
    noise: NotNegative
    """Coefficient of variation of the rounds' ratios."""
    quiet: bool
    """Whether the noise is below the bound, or was allowed: else the speedup is no result."""


class Overall(Part):
    """At one batch size: the geometric mean of the tasks' speedups."""

    batch_size: Count
    speedup: Interval


class SameText(Part):
    """Greedy answers of both sides to the same prompts, token by token."""

    compared: int
    same: int
    alike: int
    """They differ first at a token that b finds nearly as likely as its own: numerics decide between them."""
    different: int
    epsilon: Positive
    """Nearly: logprobs that differ by no more."""
    example: str | None = None
    """Of the first that is different."""


class Comparison(Document):
    """The file."""

    format: Literal["aerie-comparison/1"] = "aerie-comparison/1"
    partial: bool
    """It was interrupted or failed on its way; the cells that are here are whole."""
    hardware: Words
    model: Words
    a: Described
    b: Described
    differences: tuple[Words, ...]
    """In what else than speculation the runtimes differ; empty: in nothing that they tell."""
    workload: Workload
    cells: tuple[Cell, ...]
    overall: tuple[Overall, ...]
    same_text: SameText | None
