"""Which report a result has.

Owns the choice. Refuses to own the reports (comparison_view.py, curve_view.py, load_view.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.comparison import Comparison
from loadtest.curve import Curve
from loadtest.errors import DocumentError
from loadtest.load_report import LoadReport
from loadtest.paper.results import Paper
from loadtest.reporting import comparison_view, curve_view, load_view
from loadtest.reporting.content import Content
from loadtest.reporting.latencies import Metric
from loadtest.reporting.regression import Regression
from loadtest.reporting.results import Result

_TURNS = ("Before", "After")


def contents(result: Result, raw: Path | None = None) -> list[Content]:
    """One, or of experiments one each.

    Raises:
        DocumentError: raw lines that are not this result's, or where there are none.
    """
    match result:
        case Comparison():
            return [comparison_view.content(result, raw)]
        case LoadReport():
            return [load_view.content(result, raw)]
        case Curve() | Paper() if raw:
            raise DocumentError(f"{raw}: raw lines belong to a comparison or a load, and this is neither")
        case Curve():
            return [curve_view.content(result)]
        case Paper():
            return list(_experiments(result))


def contents_of_two(compared: Regression, results: Sequence[Result], raw: Sequence[Path | None]) -> list[Content]:
    """The verdict, and then both results.

    Raises:
        DocumentError: as above.
    """
    both = [
        replace(content, title=f"{name}: {content.title}")
        for name, result, path in zip(_TURNS, results, raw, strict=True)
        for content in contents(result, path)
    ]
    loads = [(name, result) for name, result in zip(_TURNS, results, strict=True) if isinstance(result, LoadReport)]
    metrics: tuple[Metric, ...] = ("tpot_s", "ttft_s") if loads else ()
    verdict = Content(
        title="Before and after",
        subtitle="" if compared.status else compared.sentence(),
        warnings=((compared.sentence(),) if compared.status else ()) + compared.remarks,
        table=compared.table(),
        plots=tuple(load_view.latency_against_throughput(loads, metric) for metric in metrics),
        provenance=(),
    )
    return [verdict, *both]


def _experiments(paper: Paper) -> Iterator[Content]:
    cut = ("Partial: the experiments were interrupted; what is here is whole.",) if paper.partial else ()
    for experiment in paper.experiments:
        found = comparison_view.content(experiment.comparison)
        name = experiment.name.replace("_", " ").capitalize()
        title = f"{name}, {experiment.method}, temperature {experiment.temperature:g}: {found.title}"
        yield replace(found, title=title, warnings=(*cut, *found.warnings))
