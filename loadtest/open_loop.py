"""An open loop: a request is sent when it is due, whatever has become of those before it, as users do.

Owns sending and the end. Refuses to own when requests are due (arrivals.py), HTTP and figures (summary.py). A request's
time counts from when it was due, not from when this client came to send it: a client that falls behind its schedule
must not make the endpoint look fast ("coordinated omission"). By how much it was late is told beside it.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from loadtest.closed_loop import Ask
from loadtest.prompts import Prompt
from loadtest.record import Request

Told = Callable[[Request], None]


@dataclass(frozen=True)
class Bounds:
    """What is sent at most, whichever comes first."""

    requests: int
    time_limit_s: float


@dataclass(frozen=True)
class Run:
    """What an open loop measured, in the order of the requests' ends."""

    requests: tuple[Request, ...]
    """`sent_s` is when each was due."""
    late_s: tuple[float, ...]
    """How much later each was really sent."""
    wall_s: float
    """From the first due time on, to the last end."""
    cpu_s: float
    """CPU time this process spent meanwhile: the client's own."""
    interrupted: bool
    """It was cancelled: what had not ended by then is not in it."""


async def run(ask: Ask, prompts: Sequence[Prompt], due_s: Iterable[float], bounds: Bounds, told: Told) -> Run:
    """Send until a bound is met, then wait for what runs; the same prompts in the same order every time.

    A cancellation ends it with what was measured so far. `told` hears of every request that has ended.
    """
    began_s, cpu_s = time.perf_counter(), time.process_time()
    ended: list[tuple[Request, float]] = []

    async def send(prompt: Prompt, at_s: float) -> None:
        request = await ask(prompt)
        ended.append((replace(request, sent_s=at_s), request.sent_s - at_s))
        told(ended[-1][0])

    interrupted = False
    try:
        async with asyncio.TaskGroup() as sending:
            for prompt, offset_s in itertools.islice(zip(itertools.cycle(prompts), due_s), bounds.requests):
                if offset_s > bounds.time_limit_s:
                    break
                await asyncio.sleep(began_s + offset_s - time.perf_counter())
                sending.create_task(send(prompt, began_s + offset_s))
    except asyncio.CancelledError:
        interrupted = True
    return Run(
        requests=tuple(request for request, _ in ended),
        late_s=tuple(late_s for _, late_s in ended),
        wall_s=max((request.ended_s for request, _ in ended), default=began_s) - began_s,
        cpu_s=time.process_time() - cpu_s,
        interrupted=interrupted,
    )
