"""OpenAI's routes: what must hold before a request goes upstream.

Owns the order of the checks and the model list. Refuses to own a request's shape (protocol.py), what runtimes can do
(service/capabilities.py) and what happens after the checks (relay.py).
"""

import random
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from service.capabilities import Feature, Rule, RuntimeFacts, decide, first_refusal
from service.gateway import parse, sglang
from service.gateway.admission import Ticket
from service.gateway.balance import prefix_key
from service.gateway.dependencies import Around, Record
from service.gateway.errors import InvalidRequest
from service.gateway.exchange import Exchange
from service.gateway.keys import Key
from service.gateway.limits import estimate_tokens
from service.gateway.policy import MODE_HEADER, Mode, RequestFacts, estimate_prompt_tokens, parse_mode
from service.gateway.protocol import ChatCompletionRequest, CompletionRequest, Generation
from service.gateway.record import RequestRecord
from service.gateway.relay import Relay, Surroundings
from service.gateway.responses import chat_document, renamed
from service.gateway.responses_protocol import ResponsesRequest
from service.gateway.responses_writer import ResponseWriter

router = APIRouter(prefix="/v1")

PRIORITIES = {"low": 0, "normal": 1, "high": 2}


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
    key = _authenticated(request, around, record)
    wanted = parse.validate(ResponsesRequest, await _document(request))
    try:
        exchange = _checked(RESPONSES, chat_document(wanted), _Sender(request, key), around, record)
    except InvalidRequest as error:
        raise renamed(error) from error
    writer = ResponseWriter(wanted, exchange.rid, int(time.time()))
    return Relay(replace(exchange, translation=writer), record, around)


@router.get("/models")
async def list_models(request: Request, around: Around, record: Record) -> JSONResponse:
    """The models being served, as far as the key may use them."""
    key = _authenticated(request, around, record)
    cards = {model: info for info in reversed(around.fleet.infos()) for model in info.models if key.may_use(model)}
    return JSONResponse({"object": "list", "data": [_model_card(cards[model], model) for model in sorted(cards)]})


@router.get("/models/{model:path}")
async def retrieve_model(request: Request, model: str, around: Around, record: Record) -> JSONResponse:
    """One model."""
    _authenticated(request, around, record).check_model(model)
    return JSONResponse(_model_card(around.fleet.info_of(model), model))


@dataclass(frozen=True, slots=True)
class _Sender:
    """Whose request it is, and how it asked for speculation."""

    request: Request
    key: Key

    @property
    def mode(self) -> Mode | None:
        return parse_mode(self.request.headers.get(MODE_HEADER))


async def _generate(endpoint: Endpoint, request: Request, around: Surroundings, record: RequestRecord) -> Relay:
    key = _authenticated(request, around, record)
    document = await _document(request)
    _check_prompt_is_text(endpoint, document)
    return Relay(_checked(endpoint, document, _Sender(request, key), around, record), record, around)


def _authenticated(request: Request, around: Surroundings, record: RequestRecord) -> Key:
    key = around.guard.authenticate(request.headers.get("authorization"))
    record.key_id, record.key_class = key.id, key.tenant_class
    return key


async def _document(request: Request) -> parse.Document:
    parse.check_media_type(request.headers.get("content-type"))
    return parse.parse_object(await request.body())


def _checked(
    endpoint: Endpoint, document: parse.Document, sender: _Sender, around: Surroundings, record: RequestRecord
) -> Exchange:
    """The request as it goes upstream, if everything about it holds."""
    wanted = parse.validate(endpoint.model, document)
    key, mode = sender.key, sender.mode
    key.check_model(wanted.model)
    choices, limit = _choices(wanted), wanted.token_limit
    record.model, record.stream, record.choices = wanted.model[:200], bool(wanted.stream), choices
    rid = sglang.mint_rid(endpoint.rid_prefix)
    added = sglang.additions(rid, stream=bool(wanted.stream), stream_options=document.get("stream_options"))
    body, prompts = parse.for_upstream(document, added), _prompts(wanted)
    prompt_tokens = estimate_prompt_tokens(len(body), prompts or 1)
    facts = RequestFacts(
        draw=random.random(),  # noqa: S311 - shares traffic, no secret
        asked=mode,
        key_mode=key.speculation,
        prompt_tokens=prompt_tokens,
        max_tokens=limit and limit[1],
        temperature=1.0 if wanted.temperature is None else wanted.temperature,
        needs_grammar=wanted.needs_grammar,
        needs_logprobs=wanted.needs_logprobs,
    )
    conversation = prefix_key(document)
    plan = around.fleet.plan(wanted.model, facts, conversation or rid.encode(), partial(_check_runtime, wanted))
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
        wants_usage=wanted.wants_usage,
        wants_details=bool(wanted.return_spec_tokens_details),
        key=key,
        estimate=estimate,
        ticket=Ticket(key.id, PRIORITIES[key.priority], around.fleet.config.queue.wait_s, cost=estimate),
        conversation=conversation,
        plan=plan,
    )


def _check_runtime(wanted: Generation, info: sglang.RuntimeInfo) -> None:
    """Whether this runtime can serve it.

    Raises:
        InvalidRequest: it cannot.
    """
    _check_token_limit(wanted, info)
    _check_capabilities(wanted, info)


def _check_prompt_is_text(endpoint: Endpoint, document: parse.Document) -> None:
    """Token ids get the reason, not a list of type errors."""
    prompt = document.get("prompt")
    if endpoint is COMPLETIONS and isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise _refusal(decide(Feature.PROMPT_TOKEN_IDS, RuntimeFacts()))


def _check_token_limit(wanted: Generation, info: sglang.RuntimeInfo) -> None:
    """The prompt takes at least one token; its true length is the runtime's to count."""
    if wanted.token_limit is None:
        return
    field, limit = wanted.token_limit
    if limit >= info.context_length:
        message = f"{field}: {limit} does not fit the context of {info.context_length} tokens, prompt included."
        raise InvalidRequest(message, param=field, code="context_length_exceeded")


def _check_capabilities(wanted: Generation, info: sglang.RuntimeInfo) -> None:
    refusal = first_refusal(wanted.features(), info.facts)
    if refusal is not None:
        raise _refusal(refusal)


def _refusal(rule: Rule) -> InvalidRequest:
    param = rule.feature.param
    return InvalidRequest(f"{param}: {rule.sentence}", param=param, code="unsupported_feature")


def _choices(wanted: Generation) -> int:
    return (wanted.n or 1) * (_prompts(wanted) or 1)


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
