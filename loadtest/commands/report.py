# ruff: noqa: T201  it talks to a terminal
"""Draw a result as a page and pictures; or hold a second run against a first, and fail if it got worse."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from loadtest import files
from loadtest.commands.options import number
from loadtest.commands.terminal import say
from loadtest.errors import OutputError
from loadtest.reporting import view
from loadtest.reporting.content import Content, Plot, drawable
from loadtest.reporting.regression import Regression, hold_against
from loadtest.reporting.results import Result, read

TOLERANCE = 0.03


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-bench report`."""
    add = parser.add_argument
    add(
        "results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="of compare, calibrate, load or paper; or before and after",
    )
    add("--html", type=Path, metavar="FILE", help="one page that needs nothing else")
    add("--png", type=Path, metavar="FOLDER", help="every plot as a picture")
    add("--raw", type=Path, nargs="+", default=(), metavar="FILE", help="raw lines, one file a result")
    add("--tolerance", type=share, metavar="P", help="how much worse is no regression (3%%)")
    add("--anyway", action="store_true", help="compare runs of different things all the same")
    parser.set_defaults(check_options=partial(_check_options, parser))


def share(text: str) -> float:
    """A share below 1, or a percentage."""
    value = number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write 3% or 0.03")
    return value


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    count = len(options.results)
    if count > 2:
        parser.error("one result, or two: before and after")
    if count == 1 and not (options.html or options.png):
        parser.error("say what to make of it: --html FILE, --png FOLDER, or a second result to hold against it")
    if count == 1 and (options.tolerance is not None or options.anyway):
        parser.error("--tolerance and --anyway are for two results")
    if len(options.raw) not in {0, count}:
        parser.error("--raw: one file a result")


def run(options: argparse.Namespace, argv: Sequence[str]) -> int:  # noqa: ARG001  a page tells its results' commands
    """Exit status 0; 1 if the second run is worse; 3 if it could not be judged whole; or a BenchError."""
    results = [read(path) for path in options.results]
    raw: list[Path | None] = list(options.raw) or [None] * len(results)
    compared = _compared(options, results, raw) if len(results) == 2 else None
    if compared:
        print(compared.text(), flush=True)
    if options.html or options.png:
        contents = view.contents_of_two(compared, results, raw) if compared else view.contents(results[0], raw[0])
        _draw(contents, options.html, options.png)
    return compared.status if compared else 0


def _compared(options: argparse.Namespace, results: Sequence[Result], raw: Sequence[Path | None]) -> Regression:
    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    before, after = results
    return hold_against(before, after, tolerance, anyway=options.anyway, raw=(raw[0], raw[1]))


def _draw(contents: Sequence[Content], html: Path | None, folder: Path | None) -> None:
    try:
        from loadtest.reporting import drawing, page  # noqa: PLC0415  a verdict needs neither matplotlib nor Jinja
    except ImportError as error:
        raise OutputError(f"a page needs {error.name}: pip install 'aerie[bench]'") from error
    if html:
        files.require_writable(html)
        files.write(page.page(contents), html)
        say(f"{html} is written")
    if folder:
        files.make_folder(folder)
        for name, plot in _pictures(contents):
            files.write(drawing.png(plot), folder / f"{name}.png")
        say(f"{folder} has the pictures")


def _pictures(contents: Sequence[Content]) -> list[tuple[str, Plot]]:
    """Each with its file's name: a number before it where there are several reports."""
    numbered = len(contents) > 1
    return [
        (f"{number}-{plot.name}" if numbered else plot.name, plot)
        for number, content in enumerate(contents, 1)
        for plot in content.plots
        if not drawable(plot).empty
    ]
