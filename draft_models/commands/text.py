"""How the commands write numbers."""

from collections.abc import Sequence


def rates(values: Sequence[float | None]) -> str:
    """Shares without their leading zero: `.52 .48 -`."""
    return " ".join("-" if value is None else f"{value:.2f}".removeprefix("0") for value in values)
