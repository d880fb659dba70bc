"""Requests are sent when they are due, whatever becomes of those before."""

import asyncio
import time

import pytest

from loadtest.open_loop import Bounds, run
from loadtest.prompts import Prompt
from loadtest.record import Answer, Failure, Request

PROMPTS = [Prompt((f"prompt {number}",)) for number in range(3)]


class Endpoint:
    """Notes who asks; if it expects so many, `full` says that they are there, and all wait for `released`."""

    def __init__(self, *, expects=0, outcome=None):
        self.asked = []
        self.expects, self.outcome = expects, outcome or Answer((), 1, 0, text="answered")
        self.full, self.released = asyncio.Event(), asyncio.Event()
        if not expects:
            self.released.set()

    async def __call__(self, prompt):
        self.asked.append(prompt.turns[0])
        sent_s = time.perf_counter()
        if len(self.asked) == self.expects:
            self.full.set()
        await self.released.wait()
        return Request(sent_s, time.perf_counter(), self.outcome)


async def sent(endpoint, due_s, bounds, prompts=PROMPTS, **further):
    heard = []
    await run(endpoint, prompts, due_s, bounds, heard.append, **further)
    return heard


def follow(prompt, request):
    return prompt.after(request.answer.text) if request.answer else None


def test_prompts_come_in_their_order_and_again_until_the_number_is_reached():
    async def scenario():
        endpoint = Endpoint()
        heard = await sent(endpoint, iter([0.0] * 9), Bounds(5, 60))
        assert endpoint.asked == [f"prompt {number}" for number in (0, 1, 2, 0, 1)]
        assert [asked.prompt.turns[0] for asked in heard] == endpoint.asked

    asyncio.run(scenario())


def test_nobody_waits_for_the_answers_of_others():
    async def scenario():
        endpoint = Endpoint(expects=4)
        sending = asyncio.create_task(sent(endpoint, iter([0.0, 0.001, 0.002, 0.003]), Bounds(4, 60)))
        async with asyncio.timeout(20):
            await endpoint.full.wait()
        endpoint.released.set()
        assert len(await sending) == 4

    asyncio.run(scenario())


def test_time_counts_from_when_a_request_was_due():
    async def scenario():
        first, second = await sent(Endpoint(), iter([0.0, 0.05]), Bounds(2, 60))
        assert second.request.sent_s - first.request.sent_s == pytest.approx(0.05, abs=1e-6)
        assert all(asked.late_s > -0.001 for asked in (first, second))
        assert all(asked.request.e2e_s >= asked.late_s for asked in (first, second))

    asyncio.run(scenario())


def test_after_the_time_limit_nothing_is_sent():
    async def scenario():
        endpoint = Endpoint()
        await sent(endpoint, iter([0.0, 0.01, 5000.0]), Bounds(10, 1))
        assert len(endpoint.asked) == 2

    asyncio.run(scenario())


def test_a_conversation_goes_on_as_soon_as_it_is_answered():
    async def scenario():
        endpoint = Endpoint()
        talks = [Prompt(("Hello", "And?", "Bye"))]
        heard = await sent(endpoint, iter([0.0]), Bounds(1, 60), talks, follow=follow)
        assert endpoint.asked == ["Hello", "And?", "Bye"]
        assert [asked.prompt.turn for asked in heard] == [1, 2, 3]
        assert [asked.late_s is None for asked in heard] == [False, True, True]
        assert heard[-1].prompt.messages[1::2] == [{"role": "assistant", "content": "answered"}] * 2

    asyncio.run(scenario())


def test_a_conversation_ends_where_an_answer_fails():
    async def scenario():
        endpoint = Endpoint(outcome=Failure("broken", "scripted"))
        heard = await sent(endpoint, iter([0.0]), Bounds(1, 60), [Prompt(("Hello", "And?"))], follow=follow)
        assert len(heard) == len(endpoint.asked) == 1

    asyncio.run(scenario())


def test_a_cancellation_comes_after_what_was_heard():
    async def scenario():
        heard, first = [], asyncio.Event()

        def told(asked):
            heard.append(asked)
            first.set()

        sending = asyncio.create_task(run(Endpoint(), PROMPTS, iter([0.0, 5000.0]), Bounds(2, 9000), told))
        async with asyncio.timeout(20):
            await first.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert len(heard) == 1

    asyncio.run(scenario())
