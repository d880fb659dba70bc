"""What a reader must know before believing a comparison, in sentences: for its page, and for a verdict on it.

Owns the words. Refuses to own what they are shown in (comparison_view.py, regression.py).
"""

from collections.abc import Iterator

from loadtest.compare import NOISE_BOUND
from loadtest.comparison import Comparison
from loadtest.reporting.figures import share

_ENOUGH_ROUNDS = 6
"""From which on an interval is the bootstrap's (stats.py)."""


def reservations(comparison: Comparison) -> Iterator[str]:
    """The gravest first."""
    if comparison.partial:
        yield "Partial: the run was interrupted or failed on its way. What is here is whole, the rest is missing."
    for cell in comparison.cells:
        where = f"{cell.task} at batch size {cell.batch_size}: the rounds' ratios differ by {share(cell.noise)}"
        if not cell.quiet:
            yield f"Too noisy, no result: {where}, {NOISE_BOUND:.0%} at most."
        elif cell.noise > NOISE_BOUND:
            yield f"Kept in spite of noise (--allow-noise): {where}, {NOISE_BOUND:.0%} at most."
    for difference in comparison.differences:
        yield f"The sides differ in more than speculation: {difference}"
    if comparison.same_text and comparison.same_text.different:
        yield f"{comparison.same_text.different} greedy answers differ. {comparison.same_text.example or ''}".strip()
    if comparison.workload.rounds < _ENOUGH_ROUNDS:
        yield (
            f"Only {comparison.workload.rounds} rounds: an interval is the least and the largest of them, and covers "
            "the median less often than 95%."
        )
