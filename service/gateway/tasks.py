"""Tasks that live as long as something else.

Owns ending them. Refuses to own what they do.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Inside this context, the work goes on beside it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel it and wait until it is over; awaiting the task itself would swallow our own cancellation."""
    task.cancel()
    await asyncio.wait({task})
