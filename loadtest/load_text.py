"""A load's report for a terminal: one stage in full, several as a row each.

Owns its looks. Refuses to own the fields (load_report.py).
"""

from collections.abc import Iterable, Sequence

from loadtest.load_report import LoadReport, StageReport
from loadtest.summary import PERCENTILES, Distribution, Summary
from loadtest.table import aligned

_COLUMNS = ("answered", "left", "failed", "req/s", "tok/s")
_LATENCIES = ("TTFT p50", "p99", "TPOT p50", "p99", "E2E p50", "p99")


def render(report: LoadReport) -> str:
    """A few lines; latencies in milliseconds."""
    stages = report.stages
    if len(stages) > 1:
        body = _rows("load", [(stage.label, stage.summary) for stage in stages])
        steady = [f"{stage.label}: {_steady(stage)}" for stage in stages if stage.steady]
        body += ["", *steady] if steady else []
    else:
        body = _stage(stages[0])
    told = [f"{stage.label}: {warning}" for stage in stages for warning in stage.warnings]
    partial = ["partial: it was cut short; what had ended by then is here"] if report.partial else []
    return "\n".join([*body, *([""] if told or partial else []), *told, *partial])


def _stage(stage: StageReport) -> list[str]:
    summary = stage.summary
    lines = [_outcomes(stage), _pace(summary)]
    if summary.good_per_s is not None and summary.good_share is not None:
        lines.append(f"goodput {summary.good_per_s:.2f} requests/s: {summary.good_share:.1%} kept their objectives")
    if stage.steady:
        lines.append(_steady(stage))
    rows = (
        ("time to first token", summary.ttft_s),
        ("time per output token", summary.tpot_s),
        ("between arrivals", summary.itl_s),
        ("end to end", summary.e2e_s),
        ("this client late by", stage.late_s),
    )
    lines += [
        "",
        f"{'ms':<28}" + "".join(f"{name:>10}" for name in ("mean", *(f"p{percent}" for percent in PERCENTILES))),
    ]
    lines += [_latency(name, row) for name, row in rows if row is not None]
    if len(stage.tasks) > 1:
        lines += ["", *_rows("task", stage.tasks.items())]
    return [*lines, "", f"this client took {stage.client_cpu_share:.0%} of a CPU"]


def _outcomes(stage: StageReport) -> str:
    summary = stage.summary
    parts = [f"{stage.label}: {summary.answered} of {summary.requests} requests answered in {stage.wall_s:.1f} s"]
    parts += [f"{summary.left} left"] if summary.left else []
    parts += [f"{count} {kind}" for kind, count in sorted(summary.failures.items())]
    parts += [f"{stage.ramp_requests} in the ramp, not counted"] if stage.ramp_requests else []
    return ", ".join(parts)


def _pace(summary: Summary) -> str:
    tau = summary.acceptance_length
    text = f"requests/s {summary.requests_per_s:.2f}, tokens/s {summary.completion_tokens_per_s:.1f}"
    if summary.answered:
        prompt, answer = (total / summary.answered for total in (summary.prompt_tokens, summary.completion_tokens))
        text += f", tokens of a prompt {prompt:.0f} and of an answer {answer:.0f} on average"
    return text + (f", acceptance length {tau:.2f}" if tau else "")


def _steady(stage: StageReport) -> str:
    steady = stage.steady
    assert steady is not None
    pace = "" if steady.token_s is None else f", {steady.token_s * 1000:.1f} ms a token while decoding"
    return f"all workers busy: {steady.tokens_per_s:.1f} tokens/s over {steady.window_s:.1f} s{pace}"


def _rows(what: str, rows: Iterable[tuple[str, Summary]]) -> list[str]:
    """A table of summaries; columns that hold nothing are left out."""
    known = list(rows)
    good = any(summary.good_per_s is not None for _, summary in known)
    tau = any(summary.acceptance_length is not None for _, summary in known)
    head = (what, *_COLUMNS, *_LATENCIES, *(("good/s",) if good else ()), *(("tau",) if tau else ()))
    return aligned([head, *(_row(label, summary, good=good, tau=tau) for label, summary in known)])


def _row(label: str, summary: Summary, *, good: bool, tau: bool) -> Sequence[str]:
    cells = [label, str(summary.answered), str(summary.left), str(summary.failed)]
    cells += [f"{summary.requests_per_s:.2f}", f"{summary.completion_tokens_per_s:.1f}"]
    for latency in (summary.ttft_s, summary.tpot_s, summary.e2e_s):
        cells += [_ms(latency.percentiles[50]), _ms(latency.percentiles[99])] if latency else ["-", "-"]
    if good:
        cells.append(_known(summary.good_per_s))
    if tau:
        cells.append(_known(summary.acceptance_length))
    return cells


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _latency(name: str, row: Distribution) -> str:
    return f"{name:<28}" + "".join(
        f"{_ms(cell):>10}" for cell in (row.mean, *(row.percentiles[percent] for percent in PERCENTILES))
    )
