"""What a reader must know before believing timings, in sentences: for a result's page, and for a verdict on it.

Owns the words, and how many rounds are few. Refuses to own what they are shown in (the views, regression.py).
"""

from collections.abc import Iterator

from loadtest import calibrate
from loadtest.compare import NOISE_BOUND
from loadtest.comparison import Comparison
from loadtest.curve import Curve
from loadtest.reporting.figures import share
from loadtest.stats import CONFIDENCE, coverage_of_all, fewest

ENOUGH_ROUNDS = fewest(50)
"""From which on their median has a 95% interval."""


def of_curve(curve: Curve) -> Iterator[str]:
    """The gravest first."""
    if "--allow-noise" in curve.argv:
        yield f"Rounds that differ by more than {calibrate.NOISE_BOUND:.0%} were kept (--allow-noise)."
    yield from _few_rounds(curve.workload.rounds)


def of_comparison(comparison: Comparison) -> Iterator[str]:
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
    yield from _few_rounds(comparison.workload.rounds)


def _few_rounds(rounds: int) -> Iterator[str]:
    if rounds < ENOUGH_ROUNDS:
        yield (
            f"Only {rounds} rounds: an interval is the least and the largest of them and covers the median "
            f"{coverage_of_all(rounds):.1%} of the time, not {CONFIDENCE:.0%}; a verdict on it is unclear at best."
        )
