"""The tuning file, `aerie-tuning/1`: what was measured, what follows for every batch size, and the choice.

Owns the format and how it is printed. Refuses to own how the figures come about (evidence.py, verdict.py) and what they
are written as for runtimes (export.py).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loadtest.document import (
    AcceptanceLength,
    Count,
    Document,
    Interval,
    NotNegative,
    Part,
    Positive,
    Sha256,
    Words,
    require_ascending,
)
from loadtest.errors import TuneError
from loadtest.table import aligned
from loadtest.tuning.evidence import Run

Share = Annotated[float, Field(gt=0, le=1)]


class Source(Part):
    """The recording that acceptance comes from."""

    name: Words
    sha256: Sha256
    widest: Words
    draft: Words
    draft_sha256: Sha256
    temperature: NotNegative


class Workload(Part):
    """What the measured runs asked."""

    prompts: Words
    prompts_sha256: Sha256
    max_tokens: Count
    rounds: Count
    passes: Count


class Band(Part):
    """At one batch size."""

    batch_size: Count
    share: Share
    best: Words
    """Of all trees; of one that was not measured, `best_speedup` is a prediction."""
    best_speedup: Interval
    best_chain: Words
    best_chain_speedup: Positive
    speedup: Interval
    """Of the chosen tree, or of what would have been chosen: recorded acceptance, measured cycle time."""
    throughput: Interval
    """The same tree's throughput over the baseline's on the prompts of the run, their prefill included."""
    pays: bool
    """The whole interval of `speedup` lies above 1."""


class Measured(Part):
    """A measured tree beside what was predicted of it."""

    tree: Words
    speedup: Interval
    """Of the traffic: recorded acceptance, measured cycle times."""
    acceptance_length: AcceptanceLength
    """Recorded, of the traffic."""
    measured_acceptance_length: AcceptanceLength
    """On the prompts of the runs."""


class Policy(Part):
    """Batch sizes for the gateway's policy."""

    off_above: Count
    on_below: Positive


class Tuning(Document):
    """The file."""

    format: Literal["aerie-tuning/1"] = "aerie-tuning/1"
    partial: bool
    """Interrupted before the search was over."""
    hardware: Words
    model: Words
    sglang_version: Words
    source: Source
    tasks: dict[str, Share]
    workload: Workload
    costs_s: dict[str, NotNegative]
    """Of the cost surface (surface.py)."""
    runs: Annotated[tuple[Run, ...], Field(min_length=1)]
    trees: Annotated[tuple[Measured, ...], Field(min_length=1)]
    """Best first."""
    bands: Annotated[tuple[Band, ...], Field(min_length=1)]
    chosen: Words | None
    """None: no speculation."""
    speedup: Interval
    """Of the chosen tree, or of what would have been chosen, for the whole traffic."""
    policy: Policy | None
    """None: it pays at every batch size that was measured, or not at the smallest."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        require_ascending(band.batch_size for band in self.bands)
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a file.

        Raises:
            TuneError: unreadable or invalid.
        """
        return cls.read(path, "a tuning", TuneError)

    def text(self) -> str:
        """For people."""
        trees = [("tree", "speedup of the traffic", "tau", "tau measured")]
        for one in self.trees:
            taus = f"{one.acceptance_length:.2f}", f"{one.measured_acceptance_length:.2f}"
            trees.append((one.tree, one.speedup.text(), *taus))
        bands = [("batch size", "share", "speedup", "pays", "throughput", "best tree", "its speedup")]
        for band in self.bands:
            ours = band.speedup.text(), "yes" if band.pays else "no", band.throughput.text()
            bands.append((str(band.batch_size), f"{band.share:.0%}", *ours, band.best, band.best_speedup.text()))
        return "\n".join([self._headline(), "", *aligned(trees), "", *aligned(bands)])

    def _headline(self) -> str:
        if self.chosen:
            return f"{self.chosen}: {self.speedup.text()} times the baseline, {len(self.runs)} trees measured"
        some = ""
        if self.policy:
            some = (
                f"; it pays up to batch size {self.policy.off_above}: to use that, keep it beside a baseline pool "
                f"with off_above {self.policy.off_above} and on_below {self.policy.on_below:g}"
            )
        return f"no speculation: the best measured tree, {self.trees[0].tree}, gives {self.speedup.text()}{some}"
