"""What can end a request's waiting: silence, its client's leaving, the end of the drain time. First come, first told.

Owns one time per request, moved forward with every step, and the one timer that looks at those of many. Refuses to own
what happens then: the wait just raises.
"""

import asyncio
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Any, Self

from service.gateway.errors import GatewayError

Silence = Callable[[], GatewayError]
"""What to tell of one; made only when it has been."""


class Lifeline:
    """A context in which every wait is cut short by `end` or by the time given to the last `allow`.

    On exit it raises the error that ended it. Used by one task, once; `end` may be called by any of the loop's. It is
    asyncio's timeout for times that move, at a fraction of the cost.
    """

    _task: asyncio.Task[Any]
    _loop: asyncio.AbstractEventLoop  # looked up once: Python asks the system for the process's id each time
    _watch: "Lifelines"

    def __init__(self) -> None:
        self.due_s = inf
        self._open = self._fired = False
        self._groups: tuple[Lifelines, ...] = ()
        self._on_silence: Silence | None = None
        self._ended_by: GatewayError | None = None

    def among(self, *groups: "Lifelines") -> Self:
        """Inside the context, the end of any of these is the end of this one; the first watches its time."""
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
        if self._open and not self._fired:
            self.due_s = due_s = self._loop.time() + seconds
            self._watch.look_by(due_s)

    def fire(self) -> None:
        """Its time is over."""
        self.due_s = inf
        self._fired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        assert task is not None, "a request is a task"
        self._groups = self._groups or (Lifelines(_never),)
        self._task, self._cancellations, self._open, self._watch = task, task.cancelling(), True, self._groups[0]
        for group in self._groups:
            group.add(self)
        if self._ended_by is not None:
            self._fire_in(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._open = False
        for group in self._groups:
            group.discard(self)
        task, on_silence = self._task, self._on_silence
        del self._task, self._on_silence  # they hold what holds us
        if self._fired and task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            reason = self._ended_by or (on_silence and on_silence())
            assert reason is not None, "it fires only after allow or end"
            raise reason from None


class Lifelines:
    """Those of requests that something may end together: what they hang on, and what they are told then.

    One timer watches the time of all, by the earliest: every step of a request moves its own, later nearly always, and
    then the next look finds it out.
    """

    def __init__(self, ending: Callable[[], GatewayError]) -> None:
        self._ending = ending
        self._running: set[Lifeline] = set()
        self._look: asyncio.TimerHandle | None = None
        self._look_s = inf
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

    def look_by(self, due_s: float) -> None:
        """One of them has until then, by the loop's clock."""
        if due_s < self._look_s:
            if self._look is not None:
                self._look.cancel()
            self._look_s = due_s  # uvloop's handles do not tell it where it is near
            self._look = asyncio.get_running_loop().call_at(due_s, self._fire_those_due)

    def _fire_those_due(self) -> None:
        self._look, self._look_s = None, inf
        now_s = asyncio.get_running_loop().time()
        for lifeline in self._running:
            if lifeline.due_s <= now_s:
                lifeline.fire()
        next_s = min((lifeline.due_s for lifeline in self._running), default=inf)
        if next_s < inf:
            self.look_by(next_s)


def _never() -> GatewayError:
    raise AssertionError("nobody ends a group of one")
