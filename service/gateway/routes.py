"""OpenAI's routes: what must hold before a request goes upstream.

Owns the order of the checks and the model list. Refuses to own a request's shape (protocol.py), what runtimes can do
(service/capabilities.py) and what happens after the checks (relay.py).
"""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from service.capabilities import Feature, Rule, RuntimeFacts, decide, first_refusal
from service.gateway import parse, sglang
from service.gateway.dependencies import Around, Record
from service.gateway.errors import InvalidRequest, ModelNotFound
from service.gateway.protocol import ChatCompletionRequest, CompletionRequest, Generation
from service.gateway.record import RequestRecord
from service.gateway.relay import Exchange, Relay, Surroundings

router = APIRouter(prefix="/v1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route that generates."""

    path: str
    model: type[Generation]
    rid_prefix: str
    prompt_param: str


CHAT = Endpoint("/v1/chat/completions", ChatCompletionRequest, "chatcmpl", "messages")
COMPLETIONS = Endpoint("/v1/completions", CompletionRequest, "cmpl", "prompt")


@router.post("/chat/completions")
async def chat_completions(request: Request, around: Around, record: Record) -> Relay:
    """Answer a conversation; with `stream`, as server-sent events."""
    return await _generate(CHAT, request, around, record)


@router.post("/completions")
async def completions(request: Request, around: Around, record: Record) -> Relay:
    """Continue a text; with `stream`, as server-sent events."""
    return await _generate(COMPLETIONS, request, around, record)


@router.get("/models")
async def list_models(around: Around) -> JSONResponse:
    """The models being served."""
    info = around.replica.info()
    return JSONResponse({"object": "list", "data": [_model_card(info, model) for model in info.models]})


@router.get("/models/{model:path}")
async def retrieve_model(model: str, around: Around) -> JSONResponse:
    """One model."""
    info = around.replica.info()
    _check_model(model, info)
    return JSONResponse(_model_card(info, model))


async def _generate(endpoint: Endpoint, request: Request, around: Surroundings, record: RequestRecord) -> Relay:
    parse.check_media_type(request.headers.get("content-type"))
    document = parse.parse_object(await request.body())
    _check_prompt_is_text(endpoint, document)
    wanted = parse.validate(endpoint.model, document)
    info = around.replica.info()
    _check_model(wanted.model, info)
    _check_token_limit(wanted, info)
    _check_capabilities(wanted, info)
    record.model, record.stream, record.choices = wanted.model, bool(wanted.stream), _choices(wanted)
    return Relay(_exchange(endpoint, wanted, document), record, around)


def _check_prompt_is_text(endpoint: Endpoint, document: parse.Document) -> None:
    """Token ids get the reason, not a list of type errors."""
    prompt = document.get("prompt")
    if endpoint is COMPLETIONS and isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise _refusal(decide(Feature.PROMPT_TOKEN_IDS, RuntimeFacts()))


def _check_model(model: str, info: sglang.RuntimeInfo) -> None:
    if model not in info.models:
        message = f"The model {model[:200]!r} does not exist; served: {', '.join(info.models)}."
        raise ModelNotFound(message, param="model")


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


def _exchange(endpoint: Endpoint, wanted: Generation, document: parse.Document) -> Exchange:
    rid = sglang.mint_rid(endpoint.rid_prefix)
    stream, prompts = bool(wanted.stream), _prompts(wanted)
    added = sglang.additions(rid, stream=stream, stream_options=document.get("stream_options"))
    return Exchange(
        path=endpoint.path,
        body=parse.for_upstream(document, added),
        rid=rid,
        rids=sglang.batch_rids(rid, prompts),
        own_ids=prompts is not None or (wanted.n or 1) > 1,
        prompt_param=endpoint.prompt_param,
        stream=stream,
        wants_usage=wanted.wants_usage,
        wants_details=bool(wanted.return_spec_tokens_details),
    )


def _model_card(info: sglang.RuntimeInfo, model: str) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": info.created_s,
        "owned_by": "aerie",
        "max_model_len": info.context_length,
    }
