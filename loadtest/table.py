"""A curve as a table for people.

Owns its looks. The verdict on speculation is the interval's: it pays where all of it lies above 1.
"""

from collections.abc import Sequence

from loadtest.curve import BaselinePoint, Curve, SpeculativePoint

_BASELINE = ("batch size", "baseline tok/s", "interval", "step ms")
_SPECULATIVE = ("speculative tok/s", "tau", "break-even tau", "cycle ms", "speedup", "interval", "pays")


def render(curve: Curve) -> str:
    """Two lines on what it is valid for, then a row for every batch size."""
    valid = curve.valid_for
    head = [
        f"{valid.model} on SGLang {valid.sglang_version}, {valid.hardware} ({valid.device}, {valid.flags.dtype})",
        f"{curve.created:%Y-%m-%d %H:%M} UTC; {curve.workload.rounds} rounds, {curve.workload.max_tokens} tokens at "
        f"most, prompts {curve.workload.prompts} of {curve.workload.mean_prompt_tokens:.0f} tokens on average"
        + (f"; {curve.speculative.algorithm} {curve.speculative.tree}" if curve.speculative else ""),
    ]
    points = {point.batch_size: point for point in curve.speculative.points} if curve.speculative else {}
    titles = _BASELINE + (_SPECULATIVE if points else ())
    rows = [_row(point, points.get(point.batch_size), len(titles)) for point in curve.baseline]
    return "\n".join([*head, "", *aligned([titles, *rows])])


def _row(baseline: BaselinePoint, speculative: SpeculativePoint | None, width: int) -> tuple[str, ...]:
    cells = [str(baseline.batch_size), f"{baseline.tokens_per_s:.1f}", _interval(baseline, 1)]
    cells.append(f"{baseline.step_s * 1000:.1f}")
    if speculative:
        cells += [f"{speculative.tokens_per_s:.1f}", f"{speculative.acceptance_length:.2f}"]
        cells += [f"{speculative.break_even_acceptance_length:.2f}", f"{speculative.cycle_s * 1000:.1f}"]
        cells += [f"{speculative.speedup:.2f}", _interval(speculative, 2), _verdict(speculative)]
    return tuple(cells + ["-"] * (width - len(cells)))


def _interval(point: BaselinePoint | SpeculativePoint, digits: int) -> str:
    return f"{point.low:.{digits}f} to {point.high:.{digits}f}"


def _verdict(point: SpeculativePoint) -> str:
    if point.low > 1:
        return "yes"
    return "no" if point.high < 1 else "unclear"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
