"""What can end a request's waiting: silence, its client's leaving, the end of the drain time. First come, first told.

Owns one time per request, moved forward with every step. Refuses to own what happens then: the wait just raises.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from service.gateway.errors import GatewayError

Silence = Callable[[], GatewayError]
"""What to tell of one; made only when it has been."""


class Lifeline:
    """A context in which every wait is cut short by `end` or by the time given to the last `allow`.

    On exit it raises the error that ended it. Used by one task, once; `end` may be called by any of the loop's. It is
    asyncio's timeout for times that move, at half the cost.
    """

    _task: asyncio.Task[Any]
    _loop: asyncio.AbstractEventLoop  # looked up once: Python asks the system for the process's id each time

    def __init__(self) -> None:
        self._due_s = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._look_s = 0.0
        self._open = self._fired = False
        self._groups: tuple[Lifelines, ...] = ()
        self._on_silence: Silence | None = None
        self._ended_by: GatewayError | None = None

    def among(self, *groups: "Lifelines") -> Self:
        """Inside the context, the end of any of these is the end of this one."""
        self._groups = groups
        return self

    def allow(self, seconds: float, on_silence: Silence) -> None:
        """The next step may take this long, else the request ends with that error."""
        if self._open and self._ended_by is None:
            self._on_silence = on_silence
            self._fire_in(seconds)

    def end(self, error: GatewayError) -> None:
        """End the request now: its present wait, or else its next one, raises."""
        if self._ended_by is None:
            self._ended_by = error
            self._fire_in(0)

    def _fire_in(self, seconds: float) -> None:
        """Every chunk of a stream moves the time, later nearly always: then the next look at the clock finds it out."""
        if self._open:
            self._due_s = self._loop.time() + seconds
            if self._look is None or self._due_s < self._look_s:
                self._look_at(self._due_s)

    def _look_at(self, when_s: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look_s = when_s  # uvloop's handles do not tell it where it is near
        self._look = self._loop.call_at(when_s, self._fire_if_due)

    def _fire_if_due(self) -> None:
        self._look = None
        if self._loop.time() < self._due_s:
            self._look_at(self._due_s)
        elif not self._fired:
            self._fired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        assert task is not None, "a request is a task"
        self._task, self._cancellations, self._open = task, task.cancelling(), True
        if self._ended_by is not None:
            self._fire_in(0)
        for group in self._groups:
            group.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._open = False
        for group in self._groups:
            group.discard(self)
        if self._look is not None:
            self._look.cancel()
        task, on_silence = self._task, self._on_silence
        del self._task, self._on_silence  # they hold what holds us
        if self._fired and task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            reason = self._ended_by or (on_silence and on_silence())
            assert reason is not None, "it fires only after allow or end"
            raise reason from None


class Lifelines:
    """Those of requests that something may end together: what they hang on, and what they are told then."""

    def __init__(self, ending: Callable[[], GatewayError]) -> None:
        self._ending = ending
        self._running: set[Lifeline] = set()
        self.ended = False

    def add(self, lifeline: Lifeline) -> None:
        """Until `discard`; if the others have ended already, this one ends now."""
        self._running.add(lifeline)
        if self.ended:
            lifeline.end(self._ending())

    def discard(self, lifeline: Lifeline) -> None:
        """The request is over."""
        self._running.discard(lifeline)

    def end(self) -> None:
        """All of them, now; and whatever comes later."""
        self.ended = True
        for lifeline in tuple(self._running):
            lifeline.end(self._ending())
