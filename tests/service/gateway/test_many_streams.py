"""Two thousand streams at once through a gateway in a process of its own: all open, all whole, nothing left."""

import asyncio
import json
import resource

import pytest

from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import key, samples, until
from tests.service.gateway.scripted_upstream import Release, Script
from tests.service.gateway.test_drain import process

CHAT = "/v1/chat/completions"
STREAMS = 2000
RED = wire.chunk("a", "Red")
IN_FLIGHT = key("aerie_requests_in_flight", {})
SERVED = key("aerie_requests_total", {"route": CHAT, "outcome": "ok", "status": "2xx"})


async def stream(address, request, all_open):
    """One client: it reads on when every other one has the first chunk too."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    first = await reader.readuntil(RED)
    await all_open.wait()
    rest = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    return first + rest


async def streams(address, request, release, look):
    """What all clients were sent, and what was seen while all were open."""
    all_open = asyncio.Barrier(STREAMS + 1)
    async with asyncio.timeout(60):
        clients = [asyncio.create_task(stream(address, request, all_open)) for _ in range(STREAMS)]
        await all_open.wait()
        seen = await asyncio.to_thread(look)
        release.now.set()
        return seen, await asyncio.gather(*clients)


def test_two_thousand_streams_are_open_at_once_and_none_is_dropped(session_upstream, chat, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * STREAMS), hard))  # for both ends, which are here
    session_upstream.reset()
    release = Release()
    session_upstream.script = Script(steps=[RED, release, RED, wire.DONE])
    pool = {"name": "all", "replicas": [session_upstream.url], "max_in_flight": STREAMS}
    config = tmp_path / "gateway.yaml"
    config.write_text(json.dumps({"pools": [pool]}))
    body = json.dumps(chat | {"stream": True})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with process(config=config, log_level="error") as (_, client):
        address, request = (client.base_url.host, client.base_url.port), (head + body).encode()
        open_at_once, received = asyncio.run(streams(address, request, release, lambda: samples(client)[IN_FLIGHT]))
        assert open_at_once == STREAMS
        assert all(sent.startswith(b"HTTP/1.1 200 OK") for sent in received)
        assert all(sent.count(RED) == 2 and wire.DONE in sent for sent in received)
        until(lambda: samples(client)[IN_FLIGHT] == 0)
        assert samples(client)[SERVED] == STREAMS
    session_upstream.reset()
