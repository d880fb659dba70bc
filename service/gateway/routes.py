"""OpenAI's routes: what must hold before a request goes upstream.

Owns the order of the checks and the model list. Refuses to own a request's shape (protocol.py), what runtimes can do
(service/capabilities.py) and what happens after the checks (relay.py).
"""

import random
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from service.capabilities import Feature, RuntimeFacts, decide
from service.gateway import parse, sglang
from service.gateway.admission import Ticket
from service.gateway.balance import prefix_key
from service.gateway.dependencies import Around, Record, authenticated
from service.gateway.errors import InvalidRequest
from service.gateway.exchange import Exchange
from service.gateway.headers import header
from service.gateway.include import INCLUDE_HEADER, wants_speculation
from service.gateway.keys import Key
from service.gateway.limits import estimate_tokens
from service.gateway.policy import MODE_HEADER, Mode, RequestFacts, estimate_prompt_tokens, parse_mode
from service.gateway.protocol import ChatCompletionRequest, CompletionRequest, Generation
from service.gateway.record import TASK_HEADER, RequestRecord
from service.gateway.relay import Relay, Surroundings
from service.gateway.responses import chat_document, renamed
from service.gateway.responses_protocol import ResponsesRequest
from service.gateway.responses_writer import ResponseWriter
from service.gateway.runtime_checks import check_capabilities, check_token_limit, refused

router = APIRouter(prefix="/v1")

_MODE_HEADER, _INCLUDE_HEADER, _TASK_HEADER = MODE_HEADER.encode(), INCLUDE_HEADER.encode(), TASK_HEADER.encode()

PRIORITIES = {"low": 0, "normal": 1, "high": 2}
MAX_CHOICES = 128
"""Of one request, over all its prompts: `n`'s own bound."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route that generates."""

    path: str
    model: type[Generation]
    rid_prefix: str
    prompt_param: str


CHAT = Endpoint("/v1/chat/completions", ChatCompletionRequest, "chatcmpl", "messages")
RESPONSES = Endpoint("/v1/chat/completions", ChatCompletionRequest, "resp", "input")
COMPLETIONS = Endpoint("/v1/completions", CompletionRequest, "cmpl", "prompt")


@router.post("/chat/completions")
async def chat_completions(request: Request, around: Around, record: Record) -> Relay:
    """Answer a conversation; with `stream`, as server-sent events."""
    return await _generate(CHAT, request, around, record)


@router.post("/completions")
async def completions(request: Request, around: Around, record: Record) -> Relay:
    """Continue a text; with `stream`, as server-sent events."""
    return await _generate(COMPLETIONS, request, around, record)


@router.post("/responses")
async def responses(request: Request, around: Around, record: Record) -> Relay:
    """Answer a conversation, in the words of the Responses API; with `stream`, as server-sent events."""
    key = authenticated(request, around, record)
    wanted = parse.validate(ResponsesRequest, await parse.document_of(request))
    try:
        exchange = _checked(RESPONSES, chat_document(wanted), _Sender(request, key), around, record)
    except InvalidRequest as error:
        raise renamed(error) from error
    writer = ResponseWriter(wanted, exchange.rid, int(time.time()), wants_speculation=exchange.wants_speculation)
    return Relay(exchange._replace(translation=writer), record, around)


GENERATING = {
    f"{router.prefix}/chat/completions": chat_completions,
    f"{router.prefix}/completions": completions,
    f"{router.prefix}/responses": responses,
}


@router.get("/models")
async def list_models(request: Request, around: Around, record: Record) -> JSONResponse:
    """The models being served, as far as the key may use them."""
    key = authenticated(request, around, record)
    cards = {model: info for info in reversed(around.fleet.infos()) for model in info.models if key.may_use(model)}
    return JSONResponse({"object": "list", "data": [_model_card(cards[model], model) for model in sorted(cards)]})


@router.get("/models/{model:path}")
async def retrieve_model(request: Request, model: str, around: Around, record: Record) -> JSONResponse:
    """One model."""
    authenticated(request, around, record).check_model(model)
    return JSONResponse(_model_card(around.fleet.info_of(model), model))


class _Sender(NamedTuple):
    """Whose request it is, and what its headers ask for."""

    request: Request
    key: Key

    @property
    def mode(self) -> Mode | None:
        return parse_mode(header(self.request.scope, _MODE_HEADER))

    @property
    def task(self) -> str:
        return header(self.request.scope, _TASK_HEADER) or ""

    @property
    def wants_speculation(self) -> bool:
        return wants_speculation(header(self.request.scope, _INCLUDE_HEADER))


async def _generate(endpoint: Endpoint, request: Request, around: Surroundings, record: RequestRecord) -> Relay:
    key = authenticated(request, around, record)
    document = await parse.document_of(request)
    _check_prompt_is_text(endpoint, document)
    return Relay(_checked(endpoint, document, _Sender(request, key), around, record), record, around)


def _checked(
    endpoint: Endpoint, document: parse.Document, sender: _Sender, around: Surroundings, record: RequestRecord
) -> Exchange:
    """The request as it goes upstream, if everything about it holds."""
    wanted = parse.validate(endpoint.model, document)
    key, mode, wants_figures = sender.key, sender.mode, sender.wants_speculation
    key.check_model(wanted.model)
    prompts = _prompts(wanted)
    choices, limit, features = _choices(wanted, prompts), wanted.token_limit, wanted.features()
    record.model, record.stream, record.choices = wanted.model[:200], bool(wanted.stream), choices
    if sender.task in around.fleet.config.tasks:
        record.task = sender.task
    rid = sglang.mint_rid(endpoint.rid_prefix)
    added = sglang.additions(rid, stream=bool(wanted.stream), stream_options=document.get("stream_options"))
    body = parse.for_upstream(document, added)
    prompt_tokens = estimate_prompt_tokens(len(body), prompts or 1)
    facts = RequestFacts(
        draw=random.random(),  # noqa: S311 - shares traffic, no secret
        asked=mode,
        key_mode=key.speculation,
        prompt_tokens=prompt_tokens,
        max_tokens=limit and limit[1],
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        needs_grammar=Feature.STRUCTURED_OUTPUT in features,
        needs_logprobs=Feature.LOGPROBS in features,
    )
    conversation = prefix_key(document)
    plan = around.fleet.plan(
        wanted.model, facts, conversation or rid.encode(), partial(_check_runtime, limit, features)
    )
    estimate = estimate_tokens(
        prompt_tokens=prompt_tokens * (prompts or 1),
        token_limit=limit and limit[1],
        choices=choices,
        context_length=plan.stations[0].pool.info().context_length,
    )
    return Exchange(
        path=endpoint.path,
        body=body,
        rid=rid,
        rids=sglang.batch_rids(rid, prompts),
        own_ids=prompts is not None or (wanted.n or 1) > 1,
        prompt_param=endpoint.prompt_param,
        stream=bool(wanted.stream),
        wants_usage=wanted.wants_usage or wants_figures,
        wants_details=bool(wanted.return_spec_tokens_details),
        wants_speculation=wants_figures,
        key=key,
        estimate=estimate,
        ticket=Ticket(key.id, PRIORITIES[key.priority], around.fleet.config.queue.wait_s, cost=estimate),
        conversation=conversation,
        plan=plan,
    )


def _check_runtime(limit: tuple[str, int] | None, features: set[Feature], info: sglang.RuntimeInfo) -> None:
    """Whether this runtime can serve it.

    Raises:
        InvalidRequest: it cannot.
    """
    check_token_limit(limit, info)
    if features:
        check_capabilities(features, info)


def _check_prompt_is_text(endpoint: Endpoint, document: parse.Document) -> None:
    """Token ids get the reason, not a list of type errors."""
    prompt = document.get("prompt")
    if endpoint is COMPLETIONS and isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise refused(decide(Feature.PROMPT_TOKEN_IDS, RuntimeFacts()))


def _choices(wanted: Generation, prompts: int | None) -> int:
    """How many answers the runtime makes.

    Raises:
        InvalidRequest: too many.
    """
    choices = (wanted.n or 1) * (prompts or 1)
    if choices > MAX_CHOICES:
        message = f"n: at most {MAX_CHOICES} choices in a request, n times the number of prompts, not {choices}."
        raise InvalidRequest(message, param="n", code="invalid_value")
    return choices


def _prompts(wanted: Generation) -> int | None:
    """How many prompts a list holds; None for a single one."""
    prompt = wanted.prompt if isinstance(wanted, CompletionRequest) else ""
    return len(prompt) if isinstance(prompt, list) else None


def _model_card(info: sglang.RuntimeInfo, model: str) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": info.created_s,
        "owned_by": "aerie",
        "max_model_len": info.context_length,
    }
