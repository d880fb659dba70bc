"""The Responses API through the gateway: the rules of chat completions, in its own words, with the real SDK."""

import openai
import pytest

from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import until
from tests.service.gateway.scripted_upstream import MODEL, Cut, Script

URL = "/v1/responses"
BODY = {"model": MODEL, "input": "Name two colours."}


@pytest.fixture
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_an_answer_is_a_response_under_the_id_the_runtime_knows(client, upstream):
    response = client.responses.create(**BODY)
    assert response.output_text == "Red and blue"
    assert response.id == upstream.generated[0]["rid"]


def test_a_stream_adds_up_to_the_answer(client):
    with client.responses.stream(**BODY) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(texts) == "Red and blue"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"max_output_tokens": 100_000}, "max_output_tokens"), ({"reasoning": {"effort": "low"}}, "reasoning.effort")],
)
def test_the_rules_of_chat_are_told_in_the_words_of_responses(client, upstream, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**BODY | fields)
    assert caught.value.param == param
    assert upstream.generated == []


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**BODY | {"model": "gpt-4"})


@pytest.mark.parametrize(
    "steps",
    [
        [wire.chunk("a", "Red"), Cut()],
        [wire.chunk("a", "Red")],
        [wire.chunk("a", "Red"), b"<html>\n\n", wire.DONE],
    ],
    ids=["cut", "unfinished", "garbage"],
)
def test_a_stream_that_breaks_raises_in_the_sdk(client, upstream, growth, steps):
    upstream.script = Script(steps=steps)
    with pytest.raises(openai.APIError):
        list(client.responses.create(**BODY, stream=True))
    until(lambda: growth("aerie_requests_total", route=URL, outcome="error", status="2xx") == 1)
