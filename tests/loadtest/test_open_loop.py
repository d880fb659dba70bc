"""Requests are sent when they are due, whatever becomes of those before."""

import asyncio
import time

import pytest

from loadtest.open_loop import Bounds, run
from loadtest.prompts import Prompt
from loadtest.record import Answer, Request

PROMPTS = [Prompt((f"prompt {number}",)) for number in range(3)]


class Endpoint:
    """Notes who asks; if it expects so many, `full` says that they are there, and all wait for `released`."""

    def __init__(self, *, expects=0):
        self.asked = []
        self.expects = expects
        self.full, self.released = asyncio.Event(), asyncio.Event()
        if not expects:
            self.released.set()

    async def __call__(self, prompt):
        self.asked.append(prompt.turns[0])
        sent_s = time.perf_counter()
        if len(self.asked) == self.expects:
            self.full.set()
        await self.released.wait()
        return Request(sent_s, time.perf_counter(), Answer((), 1, 0))


async def sent(endpoint, due_s, bounds, told=lambda _: None):
    return await run(endpoint, PROMPTS, due_s, bounds, told)


def test_prompts_come_in_their_order_and_again_until_the_number_is_reached():
    async def scenario():
        endpoint, heard = Endpoint(), []
        result = await sent(endpoint, iter([0.0] * 9), Bounds(5, 60), heard.append)
        assert endpoint.asked == [f"prompt {number}" for number in (0, 1, 2, 0, 1)]
        assert result.requests == tuple(heard)
        assert not result.interrupted

    asyncio.run(scenario())


def test_nobody_waits_for_the_answers_of_others():
    async def scenario():
        endpoint = Endpoint(expects=4)
        sending = asyncio.create_task(sent(endpoint, iter([0.0, 0.001, 0.002, 0.003]), Bounds(4, 60)))
        async with asyncio.timeout(20):
            await endpoint.full.wait()
        endpoint.released.set()
        assert len((await sending).requests) == 4

    asyncio.run(scenario())


def test_time_counts_from_when_a_request_was_due():
    async def scenario():
        result = await sent(Endpoint(), iter([0.0, 0.05]), Bounds(2, 60))
        first, second = result.requests
        assert second.sent_s - first.sent_s == pytest.approx(0.05, abs=1e-6)
        assert all(late_s > -0.001 for late_s in result.late_s)
        assert all(request.e2e_s >= late_s for request, late_s in zip(result.requests, result.late_s, strict=True))

    asyncio.run(scenario())


def test_after_the_time_limit_nothing_is_sent():
    async def scenario():
        endpoint = Endpoint()
        await sent(endpoint, iter([0.0, 0.01, 5000.0]), Bounds(10, 1))
        assert len(endpoint.asked) == 2

    asyncio.run(scenario())


def test_a_cancellation_keeps_what_was_measured():
    async def scenario():
        endpoint, heard = Endpoint(), asyncio.Event()
        sending = asyncio.create_task(sent(endpoint, iter([0.0, 5000.0]), Bounds(2, 9000), lambda _: heard.set()))
        async with asyncio.timeout(20):
            await heard.wait()
        sending.cancel()
        result = await sending
        assert result.interrupted
        assert len(result.requests) == 1

    asyncio.run(scenario())
