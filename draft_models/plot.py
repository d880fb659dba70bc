"""Curves of runs and studies, as SVG: what the log and the table say, drawn.

Owns the figures. Refuses to compute anything but a running mean of the loss. Needs matplotlib.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from draft_models.checkpoint import write_whole
from draft_models.errors import ConfigError, DataError
from draft_models.run_log import LOG
from draft_models.study import TABLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHED_OVER = 50
POINTS = 400
"""Drawn of a curve, about."""


def draw(sources: Sequence[Path], out: Path) -> None:
    """Runs (directories with a log.jsonl) side by side, or one study (a directory with a study.json).

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: a directory holds neither, or a log has no line to draw.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  only plots need it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install matplotlib") from error
    mpl.rcParams["svg.hashsalt"] = "aerie"  # the same picture is the same file
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    if len(sources) == 1 and (sources[0] / TABLE).exists():
        _study(figure, sources[0] / TABLE)
    else:
        _runs(figure, sources)
    write_whole(out, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))


def _runs(figure: "Figure", sources: Sequence[Path]) -> None:
    loss, hits, tau = figure.subplots(1, 3)
    for source in sources:
        lines = _log(source / LOG)
        steps = [line for line in lines if line["event"] == "progress"]
        measured = [line for line in lines if line["event"] == "validation"]
        few = slice(None, None, max(1, len(steps) // POINTS))
        tokens = [line["tokens"] for line in steps][few]
        loss.plot(tokens, _smoothed([line["loss"] for line in steps])[few], label=source.name)
        for step, label in ((0, "first"), (-1, "last")):
            hits.plot(
                tokens, _smoothed([line["alphas"][step] for line in steps])[few], label=f"{source.name}, {label} step"
            )
        tau.plot([line["tokens"] for line in measured], [line["tau"] for line in measured], "o-", label=source.name)
    _finish(loss, "token passes", "training loss")
    _finish(hits, "token passes", "share of tokens hit")
    _finish(tau, "token passes", "held-out acceptance length")


def _study(figure: "Figure", path: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    tau, alphas = figure.subplots(1, 2)
    if len({row["share"] for row in rows}) > 1:
        tau.plot([row["training_tokens"] for row in rows], [row["held_out_tau"] for row in rows], "o-")
        tau.set_xscale("log", base=2)
        _finish(tau, "training tokens", "held-out acceptance length", legend=False)
    else:
        tau.bar([row["variant"] for row in rows], [row["held_out_tau"] - 1 for row in rows], bottom=1)
        tau.tick_params("x", labelrotation=20)
        _finish(tau, "", "held-out acceptance length", legend=False)
    for row in rows:
        alphas.plot(range(len(row["n_alpha"])), row["n_alpha"], "o-", label=row["variant"])
    _finish(alphas, "n", "n-alpha")


def _finish(axes: "Axes", x: str, y: str, *, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize="small")


def _log(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: {error}; name a run's directory, or a study's") from error
    if not any(line["event"] == "progress" for line in lines):
        raise DataError(f"{path}: no batch was trained yet")
    return lines


def _smoothed(values: Sequence[float]) -> list[float]:
    """Running mean of what came before and the value itself."""
    kept = [values[max(0, end - SMOOTHED_OVER) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in kept]
