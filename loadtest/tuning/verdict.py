"""The verdict: which measured tree, whether it pays, at which batch sizes, and where the gateway should switch.

Owns these decisions, as pure functions of the evidence. Refuses to own the figures (evidence.py) and the file
(result.py).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest import stats
from loadtest.document import Interval
from loadtest.stats import rounded
from loadtest.tree import Tree
from loadtest.tuning.evidence import Evidence
from loadtest.tuning.result import Band, Measured, Policy
from loadtest.tuning.search import best_measured


@dataclass(frozen=True)
class Verdict:
    """What the evidence comes to."""

    chosen: Tree | None
    """None: the interval of the best measured tree's speedup does not lie above 1."""
    speedup: Interval
    bands: tuple[Band, ...]
    trees: tuple[Measured, ...]
    policy: Policy | None


def decide(evidence: Evidence, candidates: Sequence[Tree]) -> Verdict:
    """Of at least one run."""
    tree = best_measured(evidence)
    speedup = Interval.of(evidence.interval(tree))
    chosen = tree if speedup.low > 1 else None
    bands = tuple(_band(evidence, tree, candidates, batch_size) for batch_size in evidence.traffic.batch_sizes)
    trees = sorted(evidence.runs, key=evidence.speedup, reverse=True)
    return Verdict(chosen, speedup, bands, tuple(_measured(evidence, one) for one in trees), policy(bands))


def policy(bands: Sequence[Band]) -> Policy | None:
    """Up to where it pays: on the line between the last batch size where it does and the first where it does not.

    None: it pays everywhere, or not at the smallest.
    """
    ends = next((index for index, band in enumerate(bands) if not band.pays), 0)
    if ends == 0:
        return None
    pays, fails = bands[ends - 1], bands[ends]
    share = (pays.speedup.low - 1) / (pays.speedup.low - fails.speedup.low)
    off_above = int(pays.batch_size + share * (fails.batch_size - pays.batch_size))
    return Policy(off_above=off_above, on_below=off_above / 2)


def _band(evidence: Evidence, tree: Tree, candidates: Sequence[Tree], batch_size: int) -> Band:
    def here(one: Tree) -> float:
        return evidence.speedup(one, batch_size)

    best = max((*candidates, *evidence.runs), key=here)
    chain = max((one for one in candidates if one.eagle_topk == 1), key=here)
    cell = next(cell for cell in evidence.runs[tree].cells if cell.batch_size == batch_size)
    speedup = Interval.of(evidence.interval(tree, batch_size))
    return Band(
        batch_size=batch_size,
        share=evidence.traffic.batch_sizes[batch_size],
        best=str(best),
        best_speedup=Interval.of(evidence.interval(best, batch_size)),
        best_chain=str(chain),
        best_chain_speedup=rounded(here(chain)),
        speedup=speedup,
        throughput=Interval.of(stats.median_with_interval(cell.speedups)),
        pays=speedup.low > 1,
    )


def _measured(evidence: Evidence, tree: Tree) -> Measured:
    return Measured(
        tree=str(tree),
        speedup=Interval.of(evidence.interval(tree)),
        acceptance_length=rounded(evidence.tau(tree)),
        measured_acceptance_length=rounded(
            statistics.fmean(cell.acceptance_length for cell in evidence.runs[tree].cells)
        ),
    )
