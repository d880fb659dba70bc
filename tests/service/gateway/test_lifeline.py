"""A lifeline ends a wait for the first reason given, and only then."""

import asyncio

import pytest
import uvloop

from service.gateway.drain import Drain
from service.gateway.errors import ClientGone, ShuttingDown, UpstreamTimeout
from service.gateway.lifeline import Lifeline


async def wait_for_ever():
    await asyncio.Event().wait()


def test_silence_raises_the_error_of_the_last_step():
    async def run():
        with Lifeline() as lifeline:
            lifeline.allow(600, lambda: ClientGone("not this one"))
            lifeline.allow(0.01, lambda: UpstreamTimeout("this one"))
            await wait_for_ever()

    with pytest.raises(UpstreamTimeout, match="this one"):
        asyncio.run(run())


def test_the_first_reason_wins():
    async def run():
        with Lifeline() as lifeline:
            lifeline.end(ClientGone("first"))
            lifeline.end(ShuttingDown("second"))
            lifeline.allow(600, lambda: UpstreamTimeout("third"))
            await wait_for_ever()

    with pytest.raises(ClientGone, match="first"):
        asyncio.run(run())


def test_a_reason_given_before_the_wait_ends_it():
    async def run():
        lifeline = Lifeline()
        lifeline.end(ClientGone("early"))
        with lifeline:
            await wait_for_ever()

    with pytest.raises(ClientGone):
        asyncio.run(run())


def test_a_reason_given_afterwards_does_nothing():
    async def run():
        with Lifeline() as lifeline:
            lifeline.allow(600, lambda: UpstreamTimeout("x"))
        lifeline.end(ClientGone("late"))
        await asyncio.sleep(0)

    asyncio.run(run())


def test_an_error_of_the_work_itself_passes():
    async def run():
        with Lifeline():
            raise KeyError("mine")

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_a_cancellation_from_outside_stays_one():
    async def run():
        with Lifeline() as lifeline:
            lifeline.allow(600, lambda: UpstreamTimeout("x"))
            await wait_for_ever()

    async def cancel():
        task = asyncio.create_task(run())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())


def fire(lifeline):
    """As its timer does when the time is over."""
    lifeline.allow(600, lambda: UpstreamTimeout("silent"))
    lifeline.fire()


def test_after_its_end_nothing_of_it_is_left_on_the_task():
    async def run():
        try:
            with Lifeline() as lifeline:
                fire(lifeline)
                await wait_for_ever()
        except UpstreamTimeout:
            assert asyncio.current_task().cancelling() == 0
            await asyncio.sleep(0)
            return "ended"

    assert asyncio.run(run()) == "ended"


def test_a_cancellation_from_outside_at_the_same_time_stays_one():
    async def run():
        with Lifeline() as lifeline:
            fire(lifeline)
            asyncio.current_task().cancel()
            await wait_for_ever()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_an_error_of_the_work_at_the_same_time_passes():
    async def run():
        with Lifeline() as lifeline:
            fire(lifeline)
            raise KeyError("mine")

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_the_end_of_an_inner_timeout_is_not_the_end_of_the_request():
    async def run():
        with Lifeline() as lifeline:
            lifeline.allow(600, lambda: UpstreamTimeout("not this one"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await wait_for_ever()
        return "ended"

    assert asyncio.run(run()) == "ended"


@pytest.mark.parametrize("seconds", [0.0003, 0.01])
def test_time_is_moved_however_near_its_end_was(seconds):
    """uvloop has another kind of handle for what is less than half a millisecond away."""

    async def run():
        with Lifeline() as lifeline:
            lifeline.allow(seconds, lambda: UpstreamTimeout("too soon"))
            lifeline.allow(600, lambda: UpstreamTimeout("too late"))
            await asyncio.sleep(2 * seconds)
            lifeline.allow(0.0001, lambda: UpstreamTimeout("this one"))
            await wait_for_ever()

    with pytest.raises(UpstreamTimeout, match="this one"):
        uvloop.run(run())


def test_of_many_that_one_timer_watches_each_ends_when_its_own_time_is_over():
    async def run():
        group = Drain().lifelines

        async def request(name, allowed_s, work_s):
            try:
                with Lifeline().among(group) as lifeline:
                    for seconds in allowed_s:
                        lifeline.allow(seconds, lambda: UpstreamTimeout("silent"))
                    await asyncio.sleep(work_s)
            except UpstreamTimeout as error:
                return name, error.message
            return name, "done"

        ends = await asyncio.gather(
            request("late", [0.05], 600),
            request("early", [0.01], 600),
            request("moved on", [0.001, 600], 0.1),
            request("moved back", [600, 0.02], 600),
        )
        return dict(ends)

    silent = dict.fromkeys(("early", "late", "moved back"), "silent")
    assert uvloop.run(run()) == silent | {"moved on": "done"}


def test_a_request_that_comes_after_the_drain_time_is_ended_too():
    async def run():
        drain = Drain()
        drain.lifelines.end()
        with Lifeline().among(drain.lifelines):
            await wait_for_ever()

    with pytest.raises(ShuttingDown):
        asyncio.run(run())
