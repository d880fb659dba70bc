"""A runtime that says what a test tells it to, on SGLang 0.5.23's wire as recorded. Only under tests/."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

MODEL = "smollm2-135m-instruct"
CONTEXT = 8192
DETAILS = {
    "spec_accept_rate": 0.095,
    "spec_accept_length": 1.83,
    "spec_cap_length": 0.0,
    "spec_block_accept_length": 0.0,
    "spec_num_correct_drafts": 4,
    "spec_num_proposed_drafts": 42,
    "spec_verify_ct": 6,
    "spec_correct_drafts_histogram": [3, 2, 1],
    "spec_cap_lens_histogram": [],
}
USAGE = {
    "prompt_tokens": 34,
    "total_tokens": 45,
    "completion_tokens": 11,
    "prompt_tokens_details": None,
    "reasoning_tokens": 0,
    "completion_tokens_details": None,
}
LOAD = {  # one rank of /v1/loads?include=core: entrypoints/v1_loads.py, managers/load_snapshot.py
    "timestamp": 1795326394.5,
    "dp_rank": 0,
    "num_running_reqs": 0,
    "num_waiting_reqs": 0,
    "num_waiting_uncached_tokens": 0,
    "num_used_tokens": 0,
    "num_total_tokens": 0,
    "num_active_tokens": 0,
    "num_prealloc_ready_tokens": 0,
    "max_total_num_tokens": 65536,
    "max_running_requests": 8,
    "token_usage": 0.0,
    "gen_throughput": 0.0,
    "cache_hit_rate": 0.0,
    "utilization": 0.0,
    "total_prefill_uncached_tokens": 0,
    "total_prefill_busy_us": 0,
    "decode_moments": None,
}
DONE = b"data: [DONE]\n\n"


class Cut:
    """Break the connection here."""


class Hold:
    """Send nothing more until the gateway leaves."""


class Release:
    """Go on when the test says so."""

    def __init__(self):
        self.now = threading.Event()
        self._looks = {}

    async def passed(self):
        """One look for all that wait on a loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._looks:
            self._looks[loop] = loop.create_task(self._look())
        await asyncio.shield(self._looks[loop])

    async def _look(self):
        while not self.now.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)


@dataclass
class Script:
    """How the next generations are answered: a whole body, or steps of a stream. None: as SGLang would."""

    status: int = 200
    body: bytes | None = None
    steps: list | None = None
    before_head: object = None  # a Hold, Cut or Release before anything is sent


def event(document):
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chunk(rid, text, *, index=0, finish_reason=None):
    choice = {"index": index, "delta": {"reasoning_content": None, "content": text}, "logprobs": None}
    choice |= {"finish_reason": finish_reason, "matched_stop": None}
    return event(head(rid, "chat.completion.chunk") | {"choices": [choice]})


def head(rid, kind):
    return {"id": rid, "object": kind, "created": 1795326394, "model": MODEL}


def summary(rid, **fields):
    return event(head(rid, "chat.completion.chunk") | {"choices": [], "usage": None} | fields)


def stream_of(rid, texts=("Red", " and", " blue"), details=DETAILS):
    """A whole stream: role, texts, finish, acceptance figures, usage, [DONE]."""
    events = [chunk(rid, ""), *(chunk(rid, text) for text in texts), chunk(rid, None, finish_reason="stop")]
    return [*events, summary(rid, sglext={"spec_tokens_details": details}), summary(rid, usage=USAGE), DONE]


def whole(rid, *, details=DETAILS, n=1):
    message = {"role": "assistant", "content": "Red and blue", "reasoning_content": None}
    choice = {"message": message, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
    document = head(rid, "chat.completion") | {"choices": [{"index": i} | choice for i in range(n)], "usage": USAGE}
    document |= {"metadata": {"weight_version": "default"}, "sglext": {"spec_tokens_details": details}}
    return json.dumps(document).encode()


def whole_text(rid):
    """As `whole`, of /v1/completions."""
    choice = {"index": 0, "text": " red", "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
    document = head(rid, "text_completion") | {"choices": [choice], "usage": USAGE}
    document |= {"metadata": {"weight_version": "default"}, "sglext": {"spec_tokens_details": DETAILS}}
    return json.dumps(document).encode()


def error(message, code, kind="BadRequestError"):
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


@dataclass
class ScriptedUpstream:
    script: Script = field(default_factory=Script)
    ready_status: int = 200
    generated: list = field(default_factory=list)
    asked: list = field(default_factory=list)  # path and body of every question that generates nothing
    headers: list = field(default_factory=list)
    aborted: list = field(default_factory=list)
    left: list = field(default_factory=list)
    server_info: dict = field(default_factory=dict)
    model_info: dict = field(default_factory=dict)
    loads: tuple = ()  # the status and body of /v1/loads
    url: str = ""

    def __post_init__(self):
        self.reset()

    def reset(self):
        self.script = Script()
        self.ready_status = 200
        for seen in (self.generated, self.asked, self.headers, self.aborted, self.left):
            seen.clear()
        tree = {"speculative_num_steps": 3, "speculative_eagle_topk": 4, "speculative_num_draft_tokens": 8}
        self.server_info = {"version": "0.5.23", "device": "cpu", "speculative_algorithm": "EAGLE3", **tree}
        self.server_info |= {"enable_deterministic_inference": False, "dtype": "bfloat16", "tp_size": 1}
        self.load_is(0)
        self.model_info = {"served_model_name": MODEL, "tool_call_parser": None, "reasoning_parser": None}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        body = await read_body(receive)
        answer = {
            "/ready": lambda: (self.ready_status, b""),
            "/server_info": lambda: (200, json.dumps(self.server_info).encode()),
            "/model_info": lambda: (200, json.dumps(self.model_info).encode()),
            "/v1/models": lambda: (200, json.dumps(self.models()).encode()),
            "/v1/loads": lambda: self.loads,
            "/abort_request": lambda: (200, self.aborted.append(json.loads(body)["rid"]) or b""),
        }.get(scope["path"])
        if answer is not None:
            await respond(send, *answer())
            return
        request = json.loads(body)
        if scope["path"] in ("/v1/tokenize", "/v1/detokenize"):
            self.asked.append((scope["path"], request))
            self.headers.append(dict(scope["headers"]))
            await self.answer(request, receive, send)
            return
        self.generated.append(request)
        self.headers.append(dict(scope["headers"]))
        await self.generate(request, receive, send)

    def load_is(self, *running, **fields):
        """So many running requests on each data-parallel rank."""
        ranks = [LOAD | {"dp_rank": rank, "num_running_reqs": reqs} | fields for rank, reqs in enumerate(running)]
        document = {"timestamp": "2026-11-22T13:00:00+00:00", "version": "0.5.23", "accelerator": None}
        self.loads = 200, json.dumps(document | {"num_accelerators": 1, "loads": ranks}).encode()

    def models(self):
        card = {"id": MODEL, "object": "model", "created": 1, "owned_by": "sglang", "max_model_len": CONTEXT}
        return {"object": "list", "data": [card]}

    async def answer(self, request, receive, send):
        """A tokenizer of characters, unless the script says otherwise."""
        script = self.script
        if script.before_head is not None:
            await self.step(script.before_head, request, receive, send)
        if isinstance(script.before_head, Hold | Cut):
            return
        if script.body is not None:
            await respond(send, script.status, script.body)
        elif "tokens" in request:
            text = "".join(chr(token % 128) for token in request["tokens"] if isinstance(token, int))
            await respond(send, 200, json.dumps({"text": text}).encode())
        else:
            tokens = [ord(character) for character in json.dumps(request.get("prompt", request.get("messages")))]
            document = {"tokens": tokens, "count": len(tokens), "max_model_len": CONTEXT}
            await respond(send, 200, json.dumps(document).encode())

    async def generate(self, request, receive, send):
        script = self.script
        if script.before_head is not None:
            await self.step(script.before_head, request, receive, send)
        if isinstance(script.before_head, Hold | Cut):
            return
        rid = request["rid"]
        if not request.get("stream") or script.status != 200:
            answer = whole_text(rid) if "prompt" in request else whole(rid)
            await respond(send, script.status, script.body if script.body is not None else answer)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for step in script.steps if script.steps is not None else stream_of(rid):
            await self.step(step, request, receive, send)
        await send({"type": "http.response.body", "body": b""})

    async def step(self, step, request, receive, send):
        if isinstance(step, bytes):
            await send({"type": "http.response.body", "body": step, "more_body": True})
            await asyncio.sleep(0)
        elif isinstance(step, Release):
            await step.passed()
        elif isinstance(step, Hold):
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.append(request.get("rid"))
        else:
            receive.__self__.transport.close()  # an exception before the head would be uvicorn's 500
            while (await receive())["type"] != "http.disconnect":
                pass


async def read_body(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def respond(send, status, body):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(app, *, lifespan="off", http="auto") -> Iterator[str]:
    """The app on a real port of its own, in a thread; yields its base URL."""
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, lifespan=lifespan, http=http, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
