"""What the workers of one gateway tell one another: time series and what keys have used, in files that all can read.

Owns the files and how the numbers of several workers become those of one gateway. Refuses to own what is counted
(metrics.py, which also says of every gauge how to put it together), keys' limits (limits.py) and the workers' lives
(workers.py).

A worker's successor goes on from its predecessor's counters, so that no sum ever falls: Prometheus would take that for
a restart and count everything again. What a worker that dies has counted since its last word, five seconds ago at most,
is lost. prometheus_client's own way (files in shared memory that every count is written to) would lose nothing, but it
has no gauges that are read at the scrape, cannot drop a replica that left, and must be chosen before it is imported.
"""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
from prometheus_client import Metric
from prometheus_client.samples import Sample

from service.gateway.limits import Limiter, Told, Use
from service.gateway.metrics import Metrics

INTERVAL_S = 1.0
"""Between two looks at what keys have used."""
METRICS_INTERVAL_S = 5.0
"""Between two words on one's time series: to collect all of them takes milliseconds."""
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - only to make a folder there that is ours alone

_log = logging.getLogger("aerie.board")

_Labels = tuple[tuple[str, str], ...]
_TOGETHER: Mapping[str, Callable[[Iterable[float]], float]] = {"livesum": sum, "livemin": min, "livemax": max}


class CannotShare(Exception):
    """There is no place for what workers tell one another; the message says why, in one line."""


class Board:
    """A folder, a file a worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def new(cls) -> Self:
        """In memory where that can be, else where temporary files go.

        Raises:
            CannotShare: neither can be written.
        """
        parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
        try:
            return cls(Path(tempfile.mkdtemp(prefix=f"aerie-{os.getpid()}-", dir=parent)))
        except OSError as error:
            where = error.filename or parent or "temporary files"
            raise CannotShare(f"{where}: workers have no place to share: {error.strerror or error}") from error

    def remove(self) -> None:
        """When no worker is left."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def leave(self, worker: int) -> None:
        """For a worker that ends when nobody is left to call `remove`."""
        for file in self._folder.glob(f"{worker}.*"):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # others are still there
            self._folder.rmdir()

    def write(self, worker: int, families: Iterable[Metric]) -> None:
        """Replace what this worker said before."""
        self._write(worker, "metrics", [_plain(family) for family in families])

    def read(self, worker: int) -> list[Metric]:
        """What it said last; nothing if it never did."""
        return [_family(plain) for plain in self._read(worker, "metrics") or ()]

    def write_told(self, worker: int, told: Told) -> None:
        """Replace what this worker said of its keys before."""
        self._write(worker, "keys", (told.life, {name: tuple(use) for name, use in told.uses.items()}))

    def read_told(self, worker: int) -> Told | None:
        """What it said of them last, if it did."""
        if (plain := self._read(worker, "keys")) is None:
            return None
        life, uses = plain
        return Told(life, {name: Use(*use) for name, use in uses.items()})

    def bury(self, worker: int) -> None:
        """It is dead: what it had counted stays, what it was doing does not."""
        try:
            self.write(worker, [family for family in self.read(worker) if family.type != "gauge"])
            (self._folder / f"{worker}.keys").unlink(missing_ok=True)
        except OSError as error:
            _cannot_tell(error)

    def _write(self, worker: int, what: str, plain: Any) -> None:  # noqa: ANN401 - anything that JSON has
        file = self._folder / f"{worker}.{what}"
        fresh = self._folder / f"{worker}.{what}.new"
        fresh.write_bytes(orjson.dumps(plain))
        fresh.replace(file)

    def _read(self, worker: int, what: str) -> Any:  # noqa: ANN401 - what was written
        try:
            return orjson.loads((self._folder / f"{worker}.{what}").read_bytes())
        except FileNotFoundError:
            return None


class Shared:
    """One worker's view: its own time series, its predecessors' and the other workers' put together."""

    _metrics: Metrics  # these two from `join` on
    _limiter: Limiter

    def __init__(self, board: Board, worker: int, workers: int) -> None:
        self._board = board
        self._worker = worker
        self._others = [other for other in range(workers) if other != worker]
        self._predecessors = board.read(worker)

    def join(self, metrics: Metrics, limiter: Limiter) -> None:
        """Expose the time series of all in place of this worker's; have keys' limits hold for all."""
        self._metrics, self._limiter = metrics, limiter
        metrics.source = self
        limiter.share(self.tell, self.hear)

    def collect(self) -> list[Metric]:
        """For prometheus_client: everybody's, ours as of now."""
        mine = self.write()
        of_all = together([mine, *(self._board.read(other) for other in self._others)], self._metrics.modes)
        return without_gone_replicas(of_all)

    def write(self) -> list[Metric]:
        """Let the others know ours, and our predecessors'."""
        mine = list(self._metrics.registry.collect())
        if self._predecessors:
            mine = together([mine, self._predecessors], self._metrics.modes)
        try:
            self._board.write(self._worker, mine)
        except OSError as error:
            _cannot_tell(error)
        return mine

    def tell(self) -> None:
        """Let the others know what keys have used here."""
        try:
            self._board.write_told(self._worker, self._limiter.tell())
        except OSError as error:
            _cannot_tell(error)

    def hear(self) -> None:
        """Learn what keys have used elsewhere."""
        told = {other: self._board.read_told(other) for other in self._others}
        self._limiter.hear({other: said for other, said in told.items() if said is not None})

    async def exchange_for_ever(self) -> None:
        """Tell and hear, again and again."""
        loop = asyncio.get_running_loop()
        write_at_s = loop.time()
        while True:
            try:
                self.tell()
                self.hear()
                if loop.time() >= write_at_s:
                    write_at_s = loop.time() + METRICS_INTERVAL_S
                    self.write()
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would freeze what others see
                _log.exception("unexpected error in telling the other workers")
            await asyncio.sleep(INTERVAL_S)


def _cannot_tell(error: OSError) -> None:
    _log.warning("workers cannot be told", extra={"fields": {"reason": str(error)}})


def together(workers: Iterable[Iterable[Metric]], modes: Mapping[str, str]) -> list[Metric]:
    """One gateway's time series from its workers': counts are added up, gauges as they say."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, _Labels], list[float]]] = {}
    for family in (family for families_ in workers for family in families_):
        families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        of_family = values.setdefault(family.name, {})
        for sample in family.samples:
            of_family.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)
    for name, family in families.items():
        together_ = _TOGETHER[modes.get(name, "livesum")]
        family.samples = [
            Sample(series, dict(labels), together_(found)) for (series, labels), found in values[name].items()
        ]
    return list(families.values())


def without_gone_replicas(families: list[Metric]) -> list[Metric]:
    """What is told of replicas that no worker has any more is left out all at once: until then no sum falls."""
    present = {
        _replica(sample) for family in families if family.name == "aerie_upstream_up" for sample in family.samples
    }
    for family in families:
        family.samples = [s for s in family.samples if "replica" not in s.labels or _replica(s) in present]
    return families


def _replica(sample: Sample) -> tuple[str, str]:
    return sample.labels["pool"], sample.labels["replica"]


def _plain(family: Metric) -> list[Any]:
    samples = [(sample.name, sample.labels, sample.value) for sample in family.samples]
    return [family.name, family.documentation, family.type, samples]


def _family(plain: list[Any]) -> Metric:
    name, documentation, kind, samples = plain
    family = Metric(name, documentation, kind)
    family.samples = [Sample(*sample) for sample in samples]
    return family
