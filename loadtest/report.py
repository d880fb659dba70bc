"""The result of a load, for people and as JSON.

Owns its looks and its shape. Refuses to own the figures (summary.py).
"""

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from loadtest.summary import PERCENTILES, Distribution, Summary

FORMAT = "aerie-load/1"


@dataclass(frozen=True)
class Report:
    """A load's figures, and where they come from."""

    provenance: dict[str, Any]
    workload: dict[str, Any]
    summary: Summary
    wall_s: float
    late_s: Distribution | None
    """How much later than due this client sent."""
    client_cpu_share: float
    """Of one CPU, spent by this client."""
    interrupted: bool

    def json_text(self) -> str:
        """The file's content."""
        document = {"format": FORMAT, **asdict(self)}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n"

    def text(self) -> str:
        """A few lines for a terminal."""
        figures = self.summary
        tau = figures.acceptance_length
        lines = [
            f"{figures.answered} of {figures.requests} requests answered in {self.wall_s:.1f} s"
            + (", interrupted" if self.interrupted else "")
            + "".join(f", {count} {kind}" for kind, count in sorted(figures.failures.items())),
            f"requests/s {figures.requests_per_s:.2f}, tokens/s {figures.completion_tokens_per_s:.1f}"
            + (f", acceptance length {tau:.2f}" if tau else ""),
        ]
        if figures.good is not None and figures.good_per_s is not None:
            share = figures.good / figures.requests if figures.requests else 0.0
            lines.append(f"goodput {figures.good_per_s:.2f} requests/s: {share:.1%} kept their objectives")
        head = "".join(f"{f'p{percent}':>10}" for percent in PERCENTILES)
        lines += ["", f"{'ms':<28}{'mean':>10}{head}"]
        rows = (
            ("time to first token", figures.ttft_s),
            ("time per output token", figures.tpot_s),
            ("between arrivals", figures.itl_s),
            ("end to end", figures.e2e_s),
            ("this client late by", self.late_s),
        )
        lines += [_row(name, row) for name, row in rows if row is not None]
        return "\n".join([*lines, "", f"this client took {self.client_cpu_share:.0%} of a CPU"])


def _row(name: str, row: Distribution) -> str:
    cells = [row.mean, *(row.percentiles[percent] for percent in PERCENTILES)]
    return f"{name:<28}" + "".join(f"{cell * 1000:>10.1f}" for cell in cells)
