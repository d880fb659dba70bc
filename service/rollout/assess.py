"""A judgement: the situation, the evidence and the rules, put together.

Owns the order of things and how much evidence is enough. Refuses to own each of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.rollout.estimate import Block, Tails, compare_rates, compare_shares, overlap
from service.rollout.evidence import Evidence, gather
from service.rollout.judge import ERRORS, MISMATCHES, Finding, Findings, Measure, Spending, Verdict, cost, decide, gain
from service.rollout.prometheus import Prometheus
from service.rollout.situation import Pair, Situation, Window, situate

MEASURES = 6
"""That can take a canary back: speed, acceptance length, errors, mismatches and two latencies."""
LITTLE_OVERLAP = 0.5
SAME_SHARE = 0.005
"""Two shares that differ by no more are the same."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a canary. Ratios are the canary's figure by the stable pool's."""

    at_least: float = 0.98
    """Of the throughput at equal batch sizes, that is, of the speedup."""
    tau_at_least: float = 0.98
    latency_at_most: float = 1.2
    errors_at_most: float = 0.002
    """The difference of the shares of requests that fail."""
    replicas_at_least: float = 0.8
    """Of the replicas in proportion to its next share; 0 asks for none."""
    confidence: float = 0.95
    min_requests: int = 200
    """Of each pool."""
    look_s: int = 1800


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and all that it was made from."""

    situation: Situation
    verdict: Verdict
    why: str
    findings: Findings | None = None
    evidence: Evidence | None = None
    notes: Sequence[str] = field(default=())

    @property
    def sentence(self) -> str:
        """The verdict in one."""
        return f"{self.verdict} {self.situation.pair.canary}: {self.why}"


def assess(
    prometheus: Prometheus, pair: Pair, terms: Terms, steps: Sequence[float], meant: float | None = None
) -> Judgement:
    """Judge the canary.

    Args:
        steps: the canary's shares in the whole roll-out; each has its part of the chance to err.
        meant: the canary's share as it is configured; while the gateways have another, it is not promoted.

    Raises:
        RolloutError: as `situate` and `gather` do.
    """
    situation = situate(prometheus, pair, terms.look_s)
    missing = list(situation.missing)
    if meant is not None and abs(situation.share - meant) > SAME_SHARE:
        missing.insert(
            0, f"--values give it {meant:.1%} of the requests, the gateways {situation.share:.1%}: installed?"
        )
    if not missing and situation.share in (0, 1):
        return Judgement(situation, Verdict.IDLE, _nothing_to_do(situation), notes=situation.notes)
    if situation.window is None:
        return Judgement(situation, Verdict.HOLD, "; ".join(missing), notes=situation.notes)
    evidence = gather(prometheus, pair, situation.window)
    after = next_share(situation.share, steps)
    missing += _too_little(evidence, pair, terms)
    findings = find(evidence, situation.window, terms, len(steps), missing, last=after == 1)
    verdict, why = decide(findings)
    notes, replicas = [*situation.notes, *_notes(findings, evidence)], lacking(situation, after, terms)
    if replicas and verdict is Verdict.PROMOTE:
        verdict, why = Verdict.HOLD, "; ".join([*replicas, why])
    else:
        notes += replicas
    return Judgement(situation, verdict, why, findings, evidence, notes)


def next_share(share: float, steps: Sequence[float]) -> float:
    """The canary's after a promotion; beyond the last step, everything."""
    return next((one for one in steps if one > share + SAME_SHARE), 1.0)


def find(
    evidence: Evidence, window: Window, terms: Terms, steps: int, missing: Sequence[str], *, last: bool = False
) -> Findings:
    """What the evidence says of each measure. A promotion that is the last one wants errors surely within the limit:
    a small share has too few requests for that, and nobody compares afterwards."""
    spending = Spending(1 - terms.confidence, steps, MEASURES)
    more, less = spending.gain_tails(window.look), spending.cost_tails(window.look)

    def latency(name: str, blocks: Sequence[Block], tails: Tails) -> Measure:
        return cost(name, compare_rates(blocks, tails), terms.latency_at_most)

    mismatches = cost(MISMATCHES, compare_shares(evidence.mismatches, less), 0)
    return Findings(
        speed=gain("speed", compare_rates(evidence.speed, more), terms.at_least),
        acceptance_length=gain("acceptance length", compare_rates(evidence.acceptance, more), terms.tau_at_least),
        guards=[
            cost(ERRORS, compare_shares(evidence.errors, less), terms.errors_at_most, surely=last),
            mismatches,
            latency("time to first token", evidence.first_token, less),
            latency("time per output token", evidence.output_token, less),
        ],
        missing=[*missing, *_doubtful(mismatches, evidence)],
    )


def _doubtful(mismatches: Measure, evidence: Evidence) -> list[str]:
    """Wrong answers of the canary, where the stable pool's may be as many."""
    canary, stable = evidence.checked
    if not canary.mismatches or mismatches.finding in (Finding.GOOD, Finding.BAD):
        return []
    counts = (f"{one.mismatches:.0f} of {one.answers:.0f}" for one in (canary, stable))
    return ["checked answers that were not the target's: {} of its, {} of the stable pool's".format(*counts)]


def _too_little(evidence: Evidence, pair: Pair, terms: Terms) -> list[str]:
    return [
        f"{name} finished {requests:.0f} requests, fewer than {terms.min_requests}"
        for name, requests in zip((pair.canary, pair.stable), evidence.requests, strict=True)
        if requests < terms.min_requests
    ]


def lacking(situation: Situation, share: float, terms: Terms) -> list[str]:
    """Replicas that the canary lacks for a share: in proportion to the stable pool's, and no more than carry all."""
    canary, stable = (situation.live[name] for name in (situation.pair.canary, situation.pair.stable))
    part = terms.replicas_at_least * share
    wanted = stable * min(terms.replicas_at_least, part / (1 - part) if part < 1 else math.inf)
    short = math.ceil(wanted - canary - _ROUNDING)
    if short <= 0:
        return []
    beside = f"{share:.0%} of the requests want {canary + short} replicas beside the stable pool's {stable}"
    return [f"{beside}, and {canary} answer: {short} missing (--replicas-at-least)"]


def _nothing_to_do(situation: Situation) -> str:
    if situation.share:
        return "it has all requests, and nothing beside it to compare with; the stable pool can go"
    return "it has weight 0: not begun, or taken back; give it a weight to begin"


def _notes(findings: Findings, evidence: Evidence) -> list[str]:
    shared = overlap(evidence.speed)
    if findings.speed.estimate is None or shared >= LITTLE_OVERLAP:
        return []
    return [f"only {shared:.0%} of the pools' time is at equal batch sizes; speed is of these"]
