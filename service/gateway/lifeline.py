"""What can end a request's waiting: silence, its client's leaving, the end of the drain time. First come, first told.

Owns one timer per request, moved forward with every step. Refuses to own what happens then: the wait just raises.
"""

import asyncio
from types import TracebackType
from typing import Self

from service.gateway.errors import GatewayError


class Lifeline:
    """A context in which every wait is cut short by `end` or by the time given to the last `allow`.

    On exit it raises the error that ended it. Used by one task; `end` may be called by any of the loop's.
    """

    def __init__(self) -> None:
        self._timer = asyncio.timeout(None)
        self._open = False
        self._on_silence: GatewayError | None = None
        self._ended_by: GatewayError | None = None

    def allow(self, seconds: float, on_silence: GatewayError) -> None:
        """The next step may take this long, else the request ends with that error."""
        if self._ended_by is None:
            self._on_silence = on_silence
            self._fire_in(seconds)

    def end(self, error: GatewayError) -> None:
        """End the request now: its present wait, or else its next one, raises."""
        if self._ended_by is None:
            self._ended_by = error
            self._fire_in(0)

    def _fire_in(self, seconds: float) -> None:
        if self._open and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time() + seconds)

    async def __aenter__(self) -> Self:
        await self._timer.__aenter__()
        self._open = True
        if self._ended_by is not None:
            self._fire_in(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        try:
            await self._timer.__aexit__(kind, error, traceback)
        except TimeoutError:
            reason = self._ended_by or self._on_silence
            assert reason is not None, "the timer fires only after allow or end"
            raise reason from None
