"""A closed loop: so many workers, each of which asks again as soon as it is answered.

Owns the workers and the steady window: from when every worker has finished its first request and sent another one to
when the first worker finds nothing left to send. What is under way then is finished, so that the endpoint is idle
afterwards and usage is known of everything, but it counts only as far as it lies in the window (window.py).
Refuses to own HTTP and figures.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from loadtest.asking import Ask, Asked, Follow, Told, ignored, single_turn
from loadtest.errors import NoWindow
from loadtest.prompts import Prompt
from loadtest.record import Request


@dataclass(frozen=True)
class Bounds:
    """When a loop stops asking, whichever comes first."""

    concurrency: int
    passes: int
    """Requests of a worker within the window, on average; each sends one more before it."""
    time_limit_s: float = 120.0
    failures: int = 0
    """Failed requests that are put up with."""
    requests: int | None = None
    """First turns in all, whatever the passes say; None: as they say."""
    ramp_s: float = 0.0
    """The workers begin one after the other, evenly, over this time."""

    @property
    def total(self) -> int:
        """Prompts that are asked at most."""
        return self.concurrency * (1 + self.passes) if self.requests is None else self.requests


@dataclass(frozen=True)
class Run:
    """What a closed loop measured. Times are of `time.perf_counter`."""

    requests: tuple[Request, ...]
    concurrency: int
    start_s: float | None
    """None if no worker, or not every one, came to its second request while all were busy."""
    end_s: float
    cpu_s: float
    """CPU time this process spent over the whole run: the client's own."""
    wall_s: float
    timed_out: bool
    """The time limit ended it while there were prompts left."""

    @property
    def failed(self) -> tuple[Request, ...]:
        """Those that went wrong."""
        return tuple(request for request in self.requests if request.failure)

    def window(self) -> tuple[float, float]:
        """Start and end.

        Raises:
            NoWindow: all workers were never busy at once after their first requests.
        """
        if self.start_s is None or self.end_s <= self.start_s:
            why = (
                "the time was up before a steady window; raise --time-limit or lower --max-tokens"
                if self.timed_out
                else "there was nothing left to ask before a steady window; ask more"
            )
            raise NoWindow(f"batch size {self.concurrency}: {why}")
        return self.start_s, self.end_s


async def run(
    ask: Ask, prompts: Iterable[Prompt], bounds: Bounds, told: Told = ignored, follow: Follow = single_turn
) -> Run:
    """Ask until a bound is met; the same prompts in the same order every time. `told` hears of every request's end."""
    return await _Loop(ask, prompts, bounds, told, follow).run()


class _Loop:
    def __init__(self, ask: Ask, prompts: Iterable[Prompt], bounds: Bounds, told: Told, follow: Follow) -> None:
        self._ask, self._bounds, self._told, self._follow = ask, bounds, told, follow
        self._left: Iterator[Prompt] = islice(cycle(prompts), bounds.total)
        self._requests: list[Request] = []
        self._failures = 0
        self._warm = 0
        self._deadline_s = 0.0
        self._start_s: float | None = None
        self._end_s: float | None = None
        self._timed_out = False

    async def run(self) -> Run:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        self._deadline_s = began_s + self._bounds.time_limit_s
        async with asyncio.TaskGroup() as workers:
            for number in range(self._bounds.concurrency):
                workers.create_task(self._work(self._bounds.ramp_s * number / self._bounds.concurrency))
        assert self._end_s is not None
        ended_s = time.perf_counter()
        return Run(
            tuple(self._requests),
            self._bounds.concurrency,
            self._start_s,
            self._end_s,
            time.process_time() - cpu_s,
            ended_s - began_s,
            self._timed_out,
        )

    async def _work(self, after_s: float) -> None:
        if after_s:
            await asyncio.sleep(after_s)
        asked = 0
        following: Prompt | None = None
        while (prompt := following or self._next()) is not None:
            asked += 1
            if asked == 2:
                self._warmed()
            request = await self._ask(prompt)
            self._requests.append(request)
            self._failures += request.failure is not None
            self._told(Asked(prompt, request))
            following = self._follow(prompt, request)

    def _next(self) -> Prompt | None:
        """The next prompt; the first worker that gets none ends the window."""
        if self._end_s is not None:
            return None
        now_s = time.perf_counter()
        prompt = None if self._failures > self._bounds.failures else next(self._left, None)
        if prompt is not None and now_s >= self._deadline_s:
            prompt, self._timed_out = None, True
        if prompt is None:
            self._end_s = now_s
        return prompt

    def _warmed(self) -> None:
        self._warm += 1
        if self._warm == self._bounds.concurrency:
            self._start_s = time.perf_counter()
