"""What a stage of a load hears while it runs: every request as it ends, kept, written as a raw line, summed up live.

Owns the line of progress and what a disk that fills up means: the stage ends, and what was heard stays. Refuses to own
figures of what was measured (summary.py).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.asking import Asked
from loadtest.errors import OutputError
from loadtest.raw import RawFile


@dataclass
class Recorder:
    """Of one stage."""

    stage: str
    raw: RawFile
    began_s: float = field(default_factory=time.perf_counter)
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    """Requests under way; whoever sends counts them."""
    failure: OutputError | None = None
    """Why the raw file took no more."""
    stop: Callable[[], object] = lambda: None
    """Called once if it does not."""
    _told_s: float = field(init=False)
    _told: int = 0

    def __post_init__(self) -> None:
        self._told_s = self.began_s

    def told(self, asked: Asked) -> None:
        """One more has ended."""
        if self.failure is not None:
            return
        try:
            self._write(asked)
        except OutputError as error:
            self.failure = error
            self.stop()
            return
        self.asked.append(asked)

    def _write(self, asked: Asked) -> None:
        prompt = asked.prompt
        labels: dict[str, str | float] = {"stage": self.stage, "task": prompt.task, "prompt": prompt.name}
        labels["turn"] = prompt.turn
        if asked.late_s is not None:
            labels["late_s"] = asked.late_s
        self.raw.add(asked.request, **labels)

    def line(self, now_s: float) -> str:
        """How it goes: counts since the beginning; pace and time to first token since the last line."""
        since = self.asked[self._told :]
        first_s = [asked.request.ttft_s for asked in since if asked.request.ttft_s is not None]
        pace = len(since) / (now_s - self._told_s) if now_s > self._told_s else 0.0
        failed = sum(asked.request.failure is not None for asked in self.asked)
        left = sum(asked.request.left is not None for asked in self.asked)
        self._told, self._told_s = len(self.asked), now_s
        parts = [
            f"{self.stage}, {now_s - self.began_s:.0f} s: {len(self.asked)} ended ({pace:.2f}/s)",
            f"TTFT p50 {statistics.median_low(first_s) * 1000:.0f} ms" if first_s else "",
            f"{self.running} running",
            f"{failed} failed" if failed else "",
            f"{left} left" if left else "",
        ]
        return ", ".join(filter(None, parts))
