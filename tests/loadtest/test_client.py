"""One request at a real port: measured if it goes well, data if it does not."""

import asyncio
import socket

import pytest

from loadtest.client import AcceptanceFigures, Client, Sampling, base_url
from loadtest.errors import EndpointError
from tests.loadtest.scripted_runtime import CUT, HOLD, MODEL, ScriptedRuntime, chunk, served, speculative, stream_of

HELLO = [{"role": "user", "content": "Hello"}]


def ask(url, *, timeout_s=10.0, api_key=None, **sampling):
    async def once():
        async with Client(url, timeout_s=timeout_s, api_key=api_key) as client:
            return await client.chat(HELLO, Sampling(MODEL, 8, **sampling))

    return asyncio.run(once())


def test_a_request_is_measured_by_usage_and_by_arrival():
    with served(ScriptedRuntime(pieces=stream_of([1, 3, 8]))) as runtime:
        request = ask(runtime.url, token_counts=True)
    assert request.failure is None
    assert (request.answer.prompt_tokens, request.answer.completion_tokens) == (34, 8)
    assert 0 < request.ttft_s <= request.ttft_s + sum(request.itl_s) <= request.e2e_s
    assert len(request.itl_s) == 2
    assert request.tpot_s == pytest.approx(sum(request.itl_s) / 7)


def test_what_is_asked_is_what_every_endpoint_understands():
    with served(ScriptedRuntime()) as runtime:
        ask(f"{runtime.url}/v1/", api_key="secret")
    assert runtime.asked == [
        {
            "model": MODEL,
            "messages": HELLO,
            "max_tokens": 8,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert runtime.headers[0]["authorization"] == "Bearer secret"
    assert "x-aerie-include" not in runtime.headers[0]


def test_acceptance_figures_are_asked_for_in_the_words_of_the_endpoint():
    with served(speculative()) as runtime:
        answer = ask(runtime.url, figures=AcceptanceFigures.SGLANG, token_counts=True).answer
        ask(runtime.url, figures=AcceptanceFigures.GATEWAY)
    assert answer.acceptance.length == pytest.approx(1 + 4 / 3)
    assert runtime.asked[0]["return_spec_tokens_details"] is True
    assert runtime.asked[0]["stream_options"]["continuous_usage_stats"] is True
    assert "return_spec_tokens_details" not in runtime.asked[1]
    assert runtime.headers[1]["x-aerie-include"] == "speculation"


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (
            {"status": 503, "pieces": [b'{"message": "The request queue is full."}']},
            "refused",
            "status 503, The request",
        ),
        ({"status": 500, "pieces": [b"<html>"]}, "refused", "status 500, without an error in JSON"),
        ({"pieces": [chunk("a"), b'data: {"error": {"message": "lost"}}\n\n']}, "refused", "lost"),
        ({"pieces": [b"<html>hello</html>\n"]}, "garbage", "no event of a stream: '<html>"),
        ({"pieces": [chunk("a"), CUT]}, "broken", ""),
        ({"pieces": [chunk("a"), HOLD]}, "timeout", ""),
    ],
)
def test_what_goes_wrong_is_data(script, kind, words):
    with served(ScriptedRuntime(**script)) as runtime:
        request = ask(runtime.url, timeout_s=0.3)
    assert request.answer is None
    assert request.ttft_s is None
    assert request.tpot_s is None
    assert request.itl_s == ()
    assert request.failure.kind == kind
    assert words in request.failure.message


def test_nobody_there_is_data_too():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        request = ask(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert str(request.failure).startswith("unreachable: ")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://h/v1?x=1", "http://h:port", "http://u:secret@h"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(EndpointError) as refused:
        base_url(url)
    assert "secret" not in str(refused.value)


def test_documents_are_json_objects_or_a_sentence():
    async def fetch(url, path):
        async with Client(url) as client:
            return await client.document(path)

    with served(ScriptedRuntime(models=())) as runtime:
        assert asyncio.run(fetch(runtime.url, "/v1/models")) == {"data": []}
        with pytest.raises(EndpointError, match=r"/nothing answers status 404$"):
            asyncio.run(fetch(runtime.url, "/nothing"))
        with pytest.raises(EndpointError, match=r"/flush_cache is not JSON$"):
            asyncio.run(fetch(runtime.url, "/flush_cache"))


def test_a_stream_that_only_keeps_itself_alive_is_a_timeout():
    endless = [b": ping\n\n"] * 2000
    with served(ScriptedRuntime(pieces=endless)) as runtime:
        request = ask(runtime.url, timeout_s=0.05)
    assert request.failure.kind == "timeout"
