"""A load report as a report for people: what every stage came to, and what throughput costs in latency.

Owns its words and plots. Refuses to own drawing (drawing.py) and the figures (load_report.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.load_report import LoadReport, StageReport
from loadtest.reporting.content import Axis, Content, Plot, Point, Series, Table, wide_scale
from loadtest.reporting.figures import UNKNOWN, figure, milliseconds
from loadtest.reporting.latencies import NAMES, Metric
from loadtest.reporting.load_samples import StageSamples, of_load
from loadtest.reporting.provenance import of_document
from loadtest.summary import PERCENTILES, Distribution

_DRAWN_STAGES = 6
_MIDDLE, _TAIL = PERCENTILES[0], PERCENTILES[-1]


def content(report: LoadReport, raw: Path | None = None) -> Content:
    """The report; with the raw lines, latencies are those of every request.

    Raises:
        DocumentError: the raw lines cannot be read, or are of another load.
    """
    work = report.workload
    return Content(
        title=f"Load of {work.model}",
        subtitle=f"Stages: {len(report.stages)}; temperature {work.temperature:g}, {work.max_tokens} tokens at most",
        warnings=tuple(_warnings(report)),
        table=_table(report),
        plots=tuple(_plots(report, of_load(raw, report) if raw else {})),
        provenance=(
            *of_document(report),
            ("Model", work.model),
            (f"Prompts: {work.prompts}", f"SHA-256 {work.prompts_sha256}"),
        ),
    )


def _warnings(report: LoadReport) -> Iterator[str]:
    if report.partial:
        yield "Partial: the load was interrupted, or its raw file took no more. What is here was measured."
    for stage in report.stages:
        if stage.partial:
            yield f"{stage.label}: partial, it ended before its time."
        if stage.summary.failed:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(stage.summary.failures.items()))
            yield f"{stage.label}: {stage.summary.failed} of {stage.summary.requests} requests failed ({kinds})."
        yield from (f"{stage.label}: {warning}." for warning in stage.warnings)


def _table(report: LoadReport) -> Table:
    heads = ["stage", "answered", "requests/s", "tokens/s", "good/s", "tau"]
    heads += [f"{name} p{percent}" for name in ("TTFT", "TPOT", "e2e") for percent in (_MIDDLE, _TAIL)]
    return Table("Every stage; latencies in milliseconds", tuple(heads), tuple(map(_row, report.stages)))


def _row(stage: StageReport) -> tuple[str, ...]:
    told = stage.summary
    rates = [told.requests_per_s, told.completion_tokens_per_s, told.good_per_s, told.acceptance_length]
    latencies = [
        milliseconds(latency.percentiles[percent]) if latency else UNKNOWN
        for latency in (told.ttft_s, told.tpot_s, told.e2e_s)
        for percent in (_MIDDLE, _TAIL)
    ]
    return (stage.label, f"{told.answered} of {told.requests}", *map(figure, rates), *latencies)


def _plots(report: LoadReport, samples: StageSamples) -> Iterator[Plot]:
    stages = report.stages
    for metric in ("tpot_s", "ttft_s"):
        if any(_latency(stage, metric) for stage in stages):
            yield latency_against_throughput([("", report)], metric)
    if any(stage.summary.good_share is not None for stage in stages):
        yield _goodput(stages)
    for metric in NAMES:
        if any(_latency(stage, metric) for stage in stages):
            yield _distribution(stages, metric, samples)


def latency_against_throughput(reports: Sequence[tuple[str, LoadReport]], metric: Metric) -> Plot:
    """A point a stage; of several loads, each by its name."""
    series, rows = [], []
    for place, (name, report) in enumerate(reports):
        told = [(stage, latency) for stage in report.stages if (latency := _latency(stage, metric))]
        for percent in (_MIDDLE, _TAIL):
            points = tuple(_point(stage, latency, percent) for stage, latency in told)
            label = f"{name}, p{percent}" if name else f"p{percent}"
            colour = place if len(reports) > 1 else 1
            series.append(Series(label, colour, points, dashed=percent != _MIDDLE))
        rows += [
            (
                f"{name}, {stage.label}" if name else stage.label,
                figure(stage.summary.completion_tokens_per_s),
                *(milliseconds(latency.percentiles[percent]) for percent in PERCENTILES),
            )
            for stage, latency in told
        ]
    title = f"{NAMES[metric].capitalize()} against throughput"
    return Plot(
        f"{metric.removesuffix('_s')}-against-throughput",
        title,
        Axis("tokens per second of all requests", least=0),
        Axis("milliseconds", wide_scale([point.y for each in series for point in each.points]), least=0),
        tuple(series),
        Table(
            f"{title}, in milliseconds",
            ("stage", "tokens/s", *(f"p{percent}" for percent in PERCENTILES)),
            tuple(rows),
        ),
        notes=("A point a stage, named beside it; further right and further down is better.",),
    )


def _point(stage: StageReport, latency: Distribution, percent: int) -> Point:
    named = stage.label if percent == _MIDDLE else ""
    return Point(stage.summary.completion_tokens_per_s, latency.percentiles[percent] * 1000, label=named)


def _latency(stage: StageReport, metric: Metric) -> Distribution | None:
    found: Distribution | None = getattr(stage.summary, metric)
    return found


def _goodput(stages: Sequence[StageReport]) -> Plot:
    told = [(stage, stage.summary.good_share) for stage in stages if stage.summary.good_share is not None]
    return Plot(
        "goodput",
        "Requests that kept their objectives",
        Axis("stage"),
        Axis("share, %", least=0, most=100),
        (Series("good", 1, tuple(Point(place, share * 100) for place, (_, share) in enumerate(told))),),
        Table(
            "Requests that were answered within the objectives",
            ("stage", "share", "good/s"),
            tuple((stage.label, f"{share:.1%}", figure(stage.summary.good_per_s)) for stage, share in told),
        ),
        categories=tuple(stage.label for stage, _ in told),
    )


def _distribution(stages: Sequence[StageReport], metric: Metric, samples: StageSamples) -> Plot:
    told = [(stage, latency) for stage in stages if (latency := _latency(stage, metric))]
    step = -(-len(told) // _DRAWN_STAGES)
    series = []
    for colour, (stage, latency) in enumerate(told[::step], 1):
        sample = samples[stage.label].latencies.get(metric) if samples else None
        shares = sample.curve() if sample else [(latency.percentiles[p], float(p)) for p in PERCENTILES]
        points = tuple(Point(seconds * 1000, share) for seconds, share in shares)
        series.append(Series(stage.label, colour, points, marked=sample is None))
    title = NAMES[metric].capitalize()
    source = "From all raw requests." if samples else "From the report's percentiles; --raw shows all."
    few = f" Drawn of {len(series)} of {len(told)} stages." if step > 1 else ""
    return Plot(
        metric.removesuffix("_s"),
        title,
        Axis("milliseconds", wide_scale([point.x for each in series for point in each.points])),
        Axis("share of requests, %", least=0, most=100),
        tuple(series),
        Table(
            f"{title} in milliseconds",
            ("stage", "mean", *(f"p{percent}" for percent in PERCENTILES)),
            tuple(
                (stage.label, milliseconds(latency.mean), *(milliseconds(latency.percentiles[p]) for p in PERCENTILES))
                for stage, latency in told
            ),
        ),
        notes=(source + few,),
    )
