"""A judgement for people and for programs.

Owns both forms. Refuses to own what they say.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from service.rollout.assess import Judgement
from service.rollout.judge import SHARES, Measure

_UNITS = {"speed": "tokens/s", "time to first token": "s", "time per output token": "s"}
_ROW = "{:<28} {:>10} {:>10} {:>10} {:>20}  {}"


def table(judgement: Judgement) -> str:
    """What was measured, with intervals, and the verdict in one sentence at the end."""
    situation = judgement.situation
    pair, versions = situation.pair, situation.versions
    of = {name: f"{name} {versions[name]}".strip() if name in versions else name for name in (pair.canary, pair.stable)}
    lines = [f"{of[pair.canary]} has {situation.share:.1%} of its and {of[pair.stable]}'s requests"]
    if (window := situation.window) and judgement.findings:
        start, end = (datetime.fromtimestamp(time_s, UTC) for time_s in (window.start_s, window.end_s))
        blocks = f"{window.blocks} blocks of {window.block_s / 60:g} minutes"
        lines.append(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: look {window.look}, {blocks}")
        lines += ["", _ROW.format("", "canary", "stable", "compared", "interval", "").rstrip()]
        lines += [_row(one) for one in judgement.findings.measures.values()]
    lines += _beside(judgement)
    return "\n".join([*lines, *([""] if len(lines) > 1 else []), judgement.sentence])


def _row(measure: Measure) -> str:
    unit = f" ({_UNITS[measure.name]})" if measure.name in _UNITS else ""
    if measure.estimate is None:
        return _ROW.format(measure.name + unit, *["-"] * 4, measure.finding)
    form = "{:.2%}" if measure.name in SHARES else "{:.3f}"
    canary, stable, value, low, high = map(form.format, measure.estimate)
    return _ROW.format(measure.name + unit, canary, stable, value, f"{low} to {high}", measure.finding)


def _beside(judgement: Judgement) -> list[str]:
    """What is told and not compared."""
    lines = []
    if (evidence := judgement.evidence) is not None:
        pair, speedups = judgement.situation.pair, evidence.speedups
        told = [f"{name} {speedups[name]:.2f}" for name in (pair.canary, pair.stable) if name in speedups]
        lines += [f"requests: canary {evidence.requests[0]:.0f}, stable {evidence.requests[1]:.0f}"]
        lines += [f"speedup over the calibrated baseline, as it was: {', '.join(told)}"] if told else []
    return [*([""] if lines else []), *lines, *(f"note: {note}" for note in judgement.notes)]


def document(judgement: Judgement, weights: Mapping[str, float] | None) -> dict[str, Any]:
    """For `--json`."""
    situation, window, evidence = judgement.situation, judgement.situation.window, judgement.evidence
    pools = {"canary": situation.pair.canary, "stable": situation.pair.stable}
    measures = judgement.findings.measures.values() if judgement.findings else ()
    return {
        "format": "aerie-rollout/1",
        "verdict": judgement.verdict,
        "sentence": judgement.sentence,
        **{role: {"pool": pool, "version": situation.versions.get(pool)} for role, pool in pools.items()},
        "share": situation.share,
        "replicas": situation.live and {role: situation.live[pool] for role, pool in pools.items()},
        "window": window and {name: getattr(window, name) for name in ("start_s", "end_s", "blocks", "look")},
        "measures": {one.name.replace(" ", "_"): _measure(one) for one in measures},
        "requests": evidence and dict(zip(pools, evidence.requests, strict=True)),
        "checked": evidence and dict(zip(pools, (one._asdict() for one in evidence.checked), strict=True)),
        "speedups": evidence and dict(evidence.speedups),
        "notes": list(judgement.notes),
        "weights": weights,
    }


def _measure(measure: Measure) -> dict[str, Any]:
    figures = measure.estimate._asdict() if measure.estimate else {}
    return {**figures, "limit": measure.limit, "finding": measure.finding}
