"""A lifeline ends a wait for the first reason given, and only then."""

import asyncio

import pytest

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


def test_a_request_that_comes_after_the_drain_time_is_ended_too():
    async def run():
        drain = Drain()
        drain.lifelines.end()
        with Lifeline().among(drain.lifelines):
            await wait_for_ever()

    with pytest.raises(ShuttingDown):
        asyncio.run(run())
