"""A runtime that says what a test tells it to, on SGLang 0.5.23's wire as recorded. Only under tests/."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from tests.service.gateway.scripted_upstream import read_body, respond

MODEL = "smollm2-135m-instruct"
FLAGS = {
    "dtype": "bfloat16",
    "quantization": None,
    "kv_cache_dtype": "auto",
    "tp_size": 1,
    "dp_size": 1,
    "pp_size": 1,
    "ep_size": 1,
}
TREE = {"speculative_num_steps": 3, "speculative_eagle_topk": 4, "speculative_num_draft_tokens": 8}
CUT = object()
"""Break the connection here."""
HOLD = object()
"""Send nothing more until the client leaves."""
DONE = b"data: [DONE]\n\n"


def event(**fields):
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1795326394, "model": MODEL}
    return b"data: " + json.dumps(head | fields).encode() + b"\n\n"


def usage(completion_tokens, prompt_tokens=34, **further):
    total = {"total_tokens": prompt_tokens + completion_tokens}
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, **total, **further}


def chunk(text, *, tokens=None, finish_reason=None):
    choice = {"index": 0, "delta": {"reasoning_content": None, "content": text}, "logprobs": None}
    told = None if tokens is None else usage(tokens)
    return event(choices=[choice | {"finish_reason": finish_reason}], usage=told)


def stream_of(counts, *, total=None, told=True, details=None, speculation=None):
    """A whole answer whose chunks bring it to `counts` tokens, one after the other; `total` tokens in the end."""
    texts = [chunk("ha ", tokens=count if told else None) for count in counts]
    total = total or (counts[-1] if counts else 0)
    summaries = [event(choices=[], usage=None, sglext={"spec_tokens_details": details})] if details else []
    last = usage(total, **({"speculation": speculation} if speculation else {}))
    end = [chunk(None, finish_reason="stop"), *summaries, event(choices=[], usage=last), DONE]
    return [chunk(""), *texts, *end]


def whole_answer(tokens, alternatives=()):
    """A completion with logprobs: of each token -0.1; `alternatives` are (place, token, logprob)."""
    content = []
    for place, token in enumerate(tokens):
        others = [(text, logprob) for at, text, logprob in alternatives if at == place]
        likeliest = [{"token": text, "logprob": logprob} for text, logprob in [(token, -0.1), *others]]
        content.append({"token": token, "logprob": -0.1, "top_logprobs": likeliest})
    message = {"role": "assistant", "content": "".join(token for token in tokens if not token.startswith("<|"))}
    return {"choices": [{"index": 0, "message": message, "logprobs": {"content": content}}]}


@dataclass
class ScriptedRuntime:
    """`pieces` of every answer's body; `pauses_s` between them, the next one after every flush of the cache.

    By default they are long enough for answers of a batch to overlap.
    """

    server_info: dict = field(default_factory=dict)
    models: tuple = (MODEL,)
    status: int = 200
    pieces: list = field(default_factory=lambda: stream_of(range(1, 9)))
    answer: dict = field(default_factory=lambda: whole_answer(["ha ", "ha "]))
    """To a request that does not stream."""
    pauses_s: list = field(default_factory=list)
    flushes: bool = True
    asked: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    most: int = 0
    url: str = ""
    _running: int = 0
    _pause_s: float = 0.005

    def __post_init__(self):
        self.server_info = {
            "version": "0.5.23",
            "device": "cpu",
            "speculative_algorithm": None,
            **FLAGS,
        } | self.server_info
        self._pauses_s = iter(self.pauses_s)

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        if path == "/v1/chat/completions":
            await self._generate(scope, receive, send)
        elif path == "/flush_cache":
            self.asked.append("flush")
            self._pause_s = next(self._pauses_s, self._pause_s)
            await respond(send, 200 if self.flushes else 400, b"")
        elif path == "/v1/models":
            await respond(send, 200, json.dumps({"data": [{"id": name} for name in self.models]}).encode())
        elif path == "/server_info" and self.server_info:
            await respond(send, 200, json.dumps(self.server_info).encode())
        else:
            await respond(send, 404, b'{"detail": "Not Found"}')

    async def _generate(self, scope, receive, send):
        asked = json.loads(await read_body(receive))
        self.asked.append(asked)
        self.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            if asked.get("stream"):
                await self._answer(receive, send)
            else:
                await respond(send, self.status, json.dumps(self.answer).encode())
        finally:
            self._running -= 1

    async def _answer(self, receive, send):
        head = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        for piece in self.pieces:
            if piece is CUT:
                receive.__self__.transport.close()
            if piece in (CUT, HOLD):
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(self._pause_s)
        await send({"type": "http.response.body", "body": b""})


def speculative(**fields):
    """One that drafts: 8 tokens in 3 passes after the prompt's, 4 drafts of them accepted."""
    details = {"spec_num_correct_drafts": 4, "spec_num_proposed_drafts": 21, "spec_verify_ct": 3}
    details |= {"spec_correct_drafts_histogram": [0, 2, 1]}
    info = {"speculative_algorithm": "EAGLE3", **TREE} | fields.pop("server_info", {})
    return ScriptedRuntime(**{"server_info": info, "pieces": stream_of([1, 3, 5, 8], details=details), **fields})


@contextmanager
def served(*runtimes):
    """Each on a real port of its own, in a thread for all of them."""
    servers = [_server(runtime) for runtime in runtimes]
    thread = threading.Thread(target=asyncio.run, args=(_serve(servers),), daemon=True)
    thread.start()
    while not all(server.started for server in servers) and thread.is_alive():
        threading.Event().wait(0.01)
    for runtime, server in zip(runtimes, servers, strict=True):
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        runtime.url = f"http://{host}:{port}"
    try:
        yield runtimes[0] if len(runtimes) == 1 else runtimes
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(timeout=10)


def _server(runtime):
    return uvicorn.Server(
        uvicorn.Config(runtime, port=0, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )


async def _serve(servers):
    await asyncio.gather(*(server.serve() for server in servers))
