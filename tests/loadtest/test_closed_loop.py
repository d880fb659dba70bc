"""The workers, and when they all are at work."""

import asyncio
import time

import pytest

from loadtest.client import Client, Sampling
from loadtest.closed_loop import Bounds, run
from loadtest.errors import NoWindow
from loadtest.prompts import Prompt
from loadtest.record import Answer, Failure, Request
from loadtest.window import figures, tokens_between
from tests.loadtest.scripted_runtime import MODEL, ScriptedRuntime, served

PROMPTS = [Prompt((f"prompt {number}",)) for number in range(5)]


class Endpoint:
    """Answers after as many turns of the loop as a prompt's number says; notes who was asked, and how many at once."""

    def __init__(self, *, fails=lambda _: False, wait_s=0.0):
        self.asked, self.running, self.most, self.fails, self.wait_s = [], 0, 0, fails, wait_s

    async def __call__(self, prompt):
        self.asked.append(prompt.turns[0])
        self.running += 1
        self.most = max(self.most, self.running)
        sent_s = time.perf_counter()
        for _ in range(1 + int(prompt.turns[0].split()[1])):
            await asyncio.sleep(self.wait_s)
        self.running -= 1
        failed = self.fails(len(self.asked))
        outcome = Failure("broken", "scripted") if failed else Answer((), 1, 0)
        return Request(sent_s, time.perf_counter(), outcome)


def loop(endpoint, bounds):
    return asyncio.run(run(endpoint, PROMPTS, bounds))


@pytest.mark.parametrize(("concurrency", "passes"), [(1, 1), (1, 4), (3, 2), (8, 3)])
def test_so_many_run_at_a_time_and_every_one_is_finished(concurrency, passes):
    endpoint = Endpoint()
    result = loop(endpoint, Bounds(concurrency, passes))
    assert endpoint.most == concurrency
    assert len(result.requests) == concurrency * (1 + passes)
    assert endpoint.asked == [PROMPTS[index % 5].turns[0] for index in range(len(endpoint.asked))]


def test_the_window_opens_when_all_are_past_their_first_and_closes_when_the_first_runs_out():
    result = loop(Endpoint(wait_s=0.001), Bounds(3, 3))
    start_s, end_s = result.window()
    assert sum(request.ended_s <= start_s for request in result.requests) >= 3
    # at its end nobody waits to be sent, and all but the one that found nothing left are still at work
    assert all(request.sent_s <= end_s for request in result.requests)
    assert sum(request.ended_s > end_s for request in result.requests) <= 2
    assert result.wall_s >= end_s - start_s


def test_after_the_time_nothing_is_sent_and_what_runs_is_finished():
    endpoint = Endpoint(wait_s=0.01)
    result = loop(endpoint, Bounds(2, 10_000, time_limit_s=0.1))
    assert 2 <= len(result.requests) == len(endpoint.asked) < 10_000
    assert endpoint.running == 0


def test_a_time_too_short_leaves_no_window():
    with pytest.raises(NoWindow, match="batch size 2: the time was up"):
        loop(Endpoint(wait_s=0.01), Bounds(2, 3, time_limit_s=0.0)).window()


def test_warming_up_alone_has_no_window():
    result = loop(Endpoint(), Bounds(2, passes=0))
    assert len(result.requests) == 2
    assert result.start_s is None


def test_one_failure_too_many_ends_the_loop():
    endpoint = Endpoint(fails=lambda number: number > 3)
    result = loop(endpoint, Bounds(1, 50, failures=1))
    assert len(result.failed) == 2
    assert len(endpoint.asked) == 5


def test_failures_that_are_put_up_with_do_not():
    endpoint = Endpoint(fails=lambda number: number == 3)
    assert len(loop(endpoint, Bounds(1, 7, failures=1)).requests) == 8


def test_everybody_is_heard_of_in_the_order_of_the_ends():
    heard = []
    result = asyncio.run(run(Endpoint(), PROMPTS, Bounds(3, 2), heard.append))
    assert tuple(asked.request for asked in heard) == result.requests
    assert all(asked.late_s is None for asked in heard)


def test_a_number_of_requests_bounds_it_however_many_the_workers():
    assert len(loop(Endpoint(), Bounds(3, 0, requests=7)).requests) == 7
    assert len(loop(Endpoint(), Bounds(3, 0, requests=2)).requests) == 2


def test_a_worker_finishes_a_conversation_before_it_begins_another():
    endpoint = Endpoint()

    def follow(prompt, _):
        return prompt.after("an answer")

    talks = [Prompt((f"talk {number}", f"further {number}", f"last {number}")) for number in range(2)]
    asyncio.run(run(endpoint, talks, Bounds(1, 1), follow=follow))
    assert endpoint.asked == ["talk 0", "further 0", "last 0", "talk 1", "further 1", "last 1"]


def test_in_a_ramp_workers_begin_one_after_the_other():
    endpoint = Endpoint(wait_s=0.001)
    loop(endpoint, Bounds(2, 0, requests=10_000, ramp_s=0.4, time_limit_s=0.1))  # the second begins after 0.2 s
    assert endpoint.most == 1


async def measure(url):
    async with Client(url) as client:
        sampling = Sampling(MODEL, 8, token_counts=True)
        return await run(lambda prompt: client.chat(prompt.messages, sampling), PROMPTS, Bounds(4, 2))


def test_over_a_real_port_the_batch_is_full_and_the_client_tells_its_cost():
    with served(ScriptedRuntime()) as runtime:
        result = asyncio.run(measure(runtime.url))
    assert runtime.most == 4
    assert len(result.requests) == len(runtime.asked) == 12
    assert not result.failed
    assert result.cpu_s > 0


def test_the_window_counts_what_is_inside_and_only_a_part_of_what_its_edges_cut():
    with served(ScriptedRuntime()) as runtime:
        result = asyncio.run(measure(runtime.url))
    start_s, end_s = result.window()
    assert all(
        request.answer.completion_tokens == request.answer.arrivals[-1].tokens == 8 for request in result.requests
    )
    begun = [request for request in result.requests if request.ended_s > start_s]
    inside = [request for request in begun if request.sent_s >= start_s and request.ended_s <= end_s]
    counted = tokens_between([request.answer for request in result.requests], start_s, end_s)
    assert 8 * len(inside) <= counted <= 8 * len(begun)
    assert figures(result).tokens_per_s == pytest.approx(counted / (end_s - start_s))
