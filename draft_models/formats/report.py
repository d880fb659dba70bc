"""What an import did with every tensor, and why; what it changed, and what it refused.

Owns the words of the report, for people and as JSON. Refuses to own the decisions (importing.py).
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What became of a tensor; `FAILED` ones stop the import."""

    KEPT = "kept"
    RENAMED = "renamed"
    REBUILT = "rebuilt"
    DROPPED = "dropped"
    SHAPE = "shape"
    MISSING = "missing"
    REFUSED = "refused"
    UNKNOWN = "unknown"


FAILED = frozenset({Action.SHAPE, Action.MISSING, Action.REFUSED, Action.UNKNOWN})


@dataclass(frozen=True)
class Fate:
    """One tensor."""

    name: str
    """In the source; SGLang's name for one that the source lacks."""
    action: Action
    becomes: str | None = None
    """SGLang's name, None for what is not written."""
    why: str = ""

    def __str__(self) -> str:
        arrow = f" -> {self.becomes}" if self.becomes not in (None, self.name) else ""
        return f"{self.action:8} {self.name}{arrow}{': ' if self.why else ''}{self.why}"


@dataclass(frozen=True)
class ImportReport:
    """The whole import, in the order in which people read it."""

    format: str
    files: tuple[str, ...]
    taps: tuple[int, ...]
    """Indices into Hugging Face's hidden_states."""
    sglang_layer_ids: tuple[int, ...]
    tensors: tuple[Fate, ...]
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the draft can be written."""
        return not self.refusals and not any(fate.action in FAILED for fate in self.tensors)

    def lines(self) -> list[str]:
        """For a terminal: the format first, the reasons against it last."""
        return [
            f"format   {self.format} ({', '.join(self.files)})",
            f"taps     hidden_states{list(self.taps)} = SGLang's layers {list(self.sglang_layer_ids)}",
            *(str(fate) for fate in self.tensors),
            *(f"changed  {change}" for change in self.changes),
            *(f"warning  {warning}" for warning in self.warnings),
            *(f"refused  {refusal}" for refusal in self.refusals),
        ]

    def as_json(self) -> dict[str, Any]:
        """The same, machine-readable."""
        return asdict(self) | {"ok": self.ok}
