"""The log of a training run: a JSON line for every batch trained and every measurement.

Owns log.jsonl and what its lines hold. Refuses to own when they are written.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from draft_models.checkpoint import write_text_whole
from draft_models.errors import CheckpointError

LOG = "log.jsonl"


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    batch: int
    batches: int
    tokens: int
    """Tokens of all batches so far, padding not counted."""
    loss: float
    alphas: list[float]
    """Per step, the share of response tokens that the draft's likeliest token hits, on the batch just trained."""
    learning_rate: float
    tokens_per_s: float
    eta_s: float


@dataclass(frozen=True)
class Validation:
    """Held-out acceptance of a chain of S steps, and the objective there."""

    batch: int
    tokens: int
    loss: float
    tau: float
    n_alpha: list[float | None]


class RunLog:
    """The log in a run's directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOG

    def append(self, line: Progress | Validation) -> None:
        """One line more.

        Raises:
            CheckpointError: the disk is full.
        """
        text = json.dumps({"event": type(line).__name__.lower(), **vars(line)}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error}; --resume goes on from the last saved state") from error

    def cut(self, batch: int) -> None:
        """Drop the lines of batches after this one, and a torn last line: they will be trained, and logged, again."""
        if not self.path.exists():
            return
        whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_text_whole(self.path, "".join(line for line in whole if json.loads(line)["batch"] <= batch))
