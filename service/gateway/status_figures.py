"""What an operator asks, answered from counters: acceptance length, throughput and speedup, now and since the start.

Owns the ratios. Refuses to own the counters (metrics.py), their past (status_history.py) and words (status_view.py).
None always means that it is not known; nothing unknown becomes 0.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from service.gateway.batches import LABELS
from service.gateway.status_history import Totals, Window
from service.speculation import acceptance_length

Sum = Callable[..., float]
"""`sum(name, *labels)`: of a window or since the start."""

BUSY_S = 3.0
"""Of work at a batch size in a window: of less, a rate says little."""

_SECONDS = "aerie_batch_busy_seconds_total"
_TOKENS = "aerie_batch_completion_tokens_total"
_CALIBRATED = "aerie_batch_calibrated_tokens_total"
_BASELINE = "aerie_batch_baseline_tokens_total"


class Both(NamedTuple):
    """A figure over the last minute and since the start."""

    recent: float | None
    ever: float | None


class BatchRow(NamedTuple):
    """One pool at one batch size."""

    batch_size: str
    tokens_per_s: Both
    baseline_per_s: float | None
    """What the baseline makes in the same time: as calibrated, else as a baseline pool does."""
    speedup: Both
    """Against the calibration."""
    live_speedup: float | None
    """Against a baseline pool."""
    break_even: float | None


def tau(now: Totals, window: Window | None, *pool: str) -> Both:
    """Acceptance length, every request weighted by its verify passes."""
    return _both(now, window, _tau, *pool)


def speedup(now: Totals, window: Window | None, pools: Iterable[str], *batch_size: str) -> Both:
    """Against the calibration: tokens made / tokens that the baseline would have made, of pools that have one."""

    def of(total: Sum) -> float | None:
        made, expected = (sum(total(name, pool, *batch_size) for pool in pools) for name in (_CALIBRATED, _BASELINE))
        return _ratio(made, expected)

    return _both(now, window, of)


def accepted_at(now: Totals, pool: str) -> list[tuple[str, float]]:
    """The share of verify passes that accepted the draft at each position, since the start: tau is 1 + their sum."""
    passes = now.sum("aerie_spec_verify_passes_total", pool)
    counts = now.of("aerie_spec_accepted_drafts_total", pool)
    positions = sorted((position for (position,) in counts), key=lambda name: int(name.rstrip("+")))
    return [(position, counts[position,] / passes) for position in positions if passes]


def batch_rows(now: Totals, window: Window | None, pool: str, baselines: Iterable[str]) -> list[BatchRow]:
    """A pool at every batch size that it has worked at."""
    baselines = [name for name in baselines if name != pool]
    return [_batch_row(now, window, pool, baselines, size) for size in LABELS if now.sum(_SECONDS, pool, size)]


def _batch_row(now: Totals, window: Window | None, pool: str, baselines: list[str], size: str) -> BatchRow:
    if window is not None and window.grew(_SECONDS, pool, size) < BUSY_S:
        window = None
    per_s = _both(now, window, _per_second, pool, size)
    live_s = sum(now.sum(_SECONDS, name, size) for name in baselines)
    live = _ratio(sum(now.sum(_TOKENS, name, size) for name in baselines), live_s)
    gain = speedup(now, None, [pool], size).ever
    calibrated = per_s.ever / gain if gain and per_s.ever else None
    return BatchRow(
        batch_size=size,
        tokens_per_s=per_s,
        baseline_per_s=calibrated or live,
        speedup=speedup(now, window, [pool], size),
        live_speedup=_ratio(per_s.ever or 0.0, live or 0.0),
        break_even=now["aerie_spec_break_even_acceptance_length"].get((pool, size)),
    )


def _both(now: Totals, window: Window | None, figure: Callable[..., float | None], *labels: str) -> Both:
    return Both(figure(window.grew, *labels) if window else None, figure(now.sum, *labels))


def _tau(total: Sum, *pool: str) -> float | None:
    passes, correct = (int(total(f"aerie_spec_{what}_total", *pool)) for what in ("verify_passes", "correct_drafts"))
    return acceptance_length(correct, passes) if passes else None


def _per_second(total: Sum, *of: str) -> float | None:
    return _ratio(total(_TOKENS, *of), total(_SECONDS, *of))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None
