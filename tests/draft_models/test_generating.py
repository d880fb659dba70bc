"""`generate` as a client: what asks together is one batch."""

import asyncio

from loadtest.client import Sampling
from scripts.generating import Generating

ASKED = [[{"role": "user", "content": words}] for words in ("t3 t4 t5", "t6", "t7 t8")]


def answers(home, asked, **options):
    client = Generating(str(home / "target"), options)
    sampling = Sampling("tiny", 5)

    async def ask():
        return await asyncio.gather(*(client.chat(messages, sampling) for messages in asked))

    return asyncio.run(ask())


def test_requests_that_come_together_are_generated_together(home):
    requests = answers(home, ASKED)
    assert len({request.answer.arrivals for request in requests}) == 1
    assert [request.answer.prompt_tokens for request in requests] == [4, 2, 3]


def test_every_token_is_counted_when_it_came(home):
    (request,) = answers(home, ASKED[:1])
    assert [arrival.tokens for arrival in request.answer.arrivals] == [1, 2, 3, 4, 5]
    assert request.answer.completion_tokens == 5


def test_the_end_of_sequence_does_not_end_it(home):
    for messages in ASKED:
        (request,) = answers(home, [messages], prompt_lookup_num_tokens=3)
        assert request.answer.completion_tokens == 5
