"""An open loop: a request is sent when it is due, whatever has become of those before it, as users do.

Owns sending and the end. Refuses to own when requests are due (arrivals.py), HTTP and figures (summary.py). A request's
time counts from when it was due, not from when this client came to send it: a client that falls behind its schedule
must not make the endpoint look fast ("coordinated omission"). By how much it was late is told beside it.
"""

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loadtest.asking import Ask, Asked, Follow, Told, single_turn
from loadtest.prompts import Prompt


@dataclass(frozen=True)
class Bounds:
    """What is sent at most, whichever comes first."""

    requests: int
    """First turns: a conversation is finished."""
    time_limit_s: float


async def run(
    ask: Ask,
    prompts: Iterable[Prompt],
    due_s: Iterable[float],
    bounds: Bounds,
    told: Told,
    follow: Follow = single_turn,
) -> None:
    """Send until a bound is met, then wait for what runs; the same prompts in the same order every time.

    `told` hears of every request that has ended; those that run when it is cancelled have not. The first turn of a
    conversation is sent when it is due, a further one as soon as the one before is answered.
    """
    began_s = time.perf_counter()

    async def converse(prompt: Prompt, at_s: float) -> None:
        request = await ask(prompt)
        told(Asked(prompt, replace(request, sent_s=at_s), request.sent_s - at_s))
        while (following := follow(prompt, request)) is not None:
            prompt, request = following, await ask(following)
            told(Asked(prompt, request))

    async with asyncio.TaskGroup() as sending:
        for prompt, offset_s in itertools.islice(zip(itertools.cycle(prompts), due_s), bounds.requests):
            if offset_s > bounds.time_limit_s:
                break
            await asyncio.sleep(began_s + offset_s - time.perf_counter())
            sending.create_task(converse(prompt, began_s + offset_s))
