"""One stage of a load: requests at a rate, as a trace has them or from so many workers, and what became of them.

Owns sending them by the right loop, the end (a bound, Ctrl-C, a full disk), and what is left out of the figures: the
ramp. Refuses to own the loops (open_loop.py, closed_loop.py), figures (summary.py, window.py) and several stages
(load.py).
"""

import asyncio
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loadtest import closed_loop, open_loop, window
from loadtest.arrivals import ramped, random_arrivals
from loadtest.asking import Asked, Say
from loadtest.client import Client, Sampling
from loadtest.errors import NoWindow, OutputError
from loadtest.prompts import Prompt
from loadtest.record import Request
from loadtest.recorder import Recorder

_PROGRESS_S = 5.0
FAILURES = 1000
"""After which workers give up: an endpoint that is gone fails as fast as it is asked."""


@dataclass(frozen=True)
class Shape:
    """When requests come; one of rate, times and concurrency is there."""

    requests: int
    """First turns at most."""
    time_limit_s: float
    rate_per_s: float | None = None
    burstiness: float = 1.0
    seed: int = 0
    times_s: tuple[float, ...] | None = None
    concurrency: int | None = None
    ramp_s: float = 0.0
    """At the beginning, in which the rate or the workers grow; not measured."""

    @property
    def label(self) -> str:
        """What tells it from other stages."""
        if self.concurrency is not None:
            return f"concurrency {self.concurrency}"
        return "trace" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"

    def due_s(self) -> Iterable[float]:
        """Of an open loop."""
        if self.times_s is not None:
            return self.times_s
        assert self.rate_per_s is not None
        times_s = random_arrivals(self.rate_per_s, burstiness=self.burstiness, seed=self.seed)
        return ramped(times_s, self.ramp_s) if self.ramp_s else times_s


@dataclass(frozen=True)
class Steady:
    """Of workers that were all busy: from when each had its first answer to when the first had nothing left to send."""

    tokens_per_s: float
    token_s: float | None
    """Seconds per token of one request while all decode; None if they never did so at once."""
    window_s: float


@dataclass(frozen=True)
class Measured:
    """What a stage leaves."""

    shape: Shape
    asked: tuple[Asked, ...]
    """Due after the ramp, in the order of their ends."""
    ramp_requests: int
    """Due in it."""
    wall_s: float
    """From the ramp's end to the last end."""
    client_cpu_share: float
    """Of one CPU, spent by this client, ramp included."""
    steady: Steady | str | None
    """Of workers: it, or why there is none; None of other loads."""
    interrupted: bool
    failure: OutputError | None
    """The raw file's, which ended it."""

    @property
    def gave_up(self) -> bool:
        """Whether workers found that enough had failed."""
        return self.shape.concurrency is not None and sum(bool(each.request.failure) for each in self.asked) > FAILURES

    @property
    def whole(self) -> bool:
        """Whether nothing cut it short."""
        return not self.interrupted and self.failure is None


class Stage:
    """Runs one shape of load on one endpoint."""

    def __init__(self, client: Client, sampling: Sampling, recorder: Recorder, *, multi_turn: bool) -> None:
        self._client, self._sampling, self._recorder, self._multi_turn = client, sampling, recorder, multi_turn

    async def run(self, shape: Shape, prompts: Iterable[Prompt], say: Say) -> Measured:
        """Send it; a cancellation or a full disk ends it with what was measured."""
        recorder, cpu_s = self._recorder, time.process_time()
        sending = asyncio.create_task(self._send(shape, prompts))
        recorder.stop = sending.cancel
        telling = asyncio.create_task(self._tell(say))
        run: closed_loop.Run | None = None
        interrupted = False
        try:
            run = await sending
        except asyncio.CancelledError:
            interrupted = recorder.failure is None
        finally:
            telling.cancel()
        now_s = time.perf_counter()
        say(recorder.line(now_s))
        cpu_share = (time.process_time() - cpu_s) / (now_s - recorder.began_s)
        return self._measured(shape, run, cpu_share, interrupted=interrupted)

    async def _send(self, shape: Shape, prompts: Iterable[Prompt]) -> closed_loop.Run | None:
        told, follow = self._recorder.told, self._follow
        if shape.concurrency is None:
            bounds = open_loop.Bounds(shape.requests, shape.time_limit_s)
            await open_loop.run(self._ask, prompts, shape.due_s(), bounds, told, follow)
            return None
        workers = closed_loop.Bounds(
            shape.concurrency,
            passes=0,
            time_limit_s=shape.time_limit_s,
            failures=FAILURES,
            requests=shape.requests,
            ramp_s=shape.ramp_s,
        )
        return await closed_loop.run(self._ask, prompts, workers, told, follow)

    async def _ask(self, prompt: Prompt) -> Request:
        sampling = self._sampling
        if prompt.answer_tokens is not None:
            sampling = replace(sampling, max_tokens=prompt.answer_tokens, ignore_eos=True)
        leaves_at = prompt.leaves_at
        self._recorder.running += 1
        try:
            return await self._client.chat(
                prompt.messages,
                sampling,
                keep_text=self._multi_turn and len(prompt.turns) > 1,
                leave_after_tokens=None if leaves_at is None else max(1, math.ceil(leaves_at * sampling.max_tokens)),
            )
        finally:
            self._recorder.running -= 1

    def _follow(self, prompt: Prompt, request: Request) -> Prompt | None:
        """The next turn of a conversation whose answer has words to put into it."""
        answer = request.answer
        return prompt.after(answer.text) if self._multi_turn and answer is not None and answer.text else None

    async def _tell(self, say: Say) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            say(self._recorder.line(time.perf_counter()))

    def _measured(self, shape: Shape, run: closed_loop.Run | None, cpu_share: float, *, interrupted: bool) -> Measured:
        recorder = self._recorder
        from_s = recorder.began_s + shape.ramp_s
        asked = tuple(each for each in recorder.asked if each.request.sent_s >= from_s)
        return Measured(
            shape=shape,
            asked=asked,
            ramp_requests=len(recorder.asked) - len(asked),
            wall_s=max((each.request.ended_s for each in asked), default=from_s) - from_s,
            client_cpu_share=cpu_share,
            steady=_steady(run, asked),
            interrupted=interrupted,
            failure=recorder.failure,
        )


def _steady(run: closed_loop.Run | None, asked: Iterable[Asked]) -> Steady | str | None:
    """The steady window of workers, or why there is none; None without workers."""
    if run is None:
        return None
    if any(each.request.answer is None for each in asked):
        return "requests failed or were left: the batch was not full all the time"
    try:
        start_s, end_s = run.window()
    except NoWindow as error:
        return str(error)
    answers = [request.answer for request in run.requests if request.answer is not None]
    try:
        token_s = window.decode_token_s(run.requests, run.concurrency)
    except NoWindow:
        token_s = None
    return Steady(window.tokens_between(answers, start_s, end_s) / (end_s - start_s), token_s, end_s - start_s)
