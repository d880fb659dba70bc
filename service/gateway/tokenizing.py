"""Tokenize and detokenize: what must hold before a question goes upstream.

Owns the routes. Refuses to own a request's shape (tokens_protocol.py) and what happens after the checks (lookup.py).
Both are served under OpenAI's prefix and without it, as SGLang does.
"""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from service.gateway import parse
from service.gateway.dependencies import Around, Record, authenticated
from service.gateway.lookup import Question, ask
from service.gateway.policy import estimate_prompt_tokens
from service.gateway.record import RequestRecord
from service.gateway.relay import Surroundings
from service.gateway.runtime_checks import check_capabilities
from service.gateway.tokens_protocol import DetokenizeRequest, TokenizeRequest

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route that asks."""

    path: str
    model: type[TokenizeRequest | DetokenizeRequest]


TOKENIZE = Endpoint("/v1/tokenize", TokenizeRequest)
DETOKENIZE = Endpoint("/v1/detokenize", DetokenizeRequest)


@router.post("/v1/tokenize")
@router.post("/tokenize", include_in_schema=False)
async def tokenize(request: Request, around: Around, record: Record) -> Response:
    """The token ids of a text, of several, or of a conversation as the model's template writes it, and their number."""
    return await _answered(TOKENIZE, request, around, record)


@router.post("/v1/detokenize")
@router.post("/detokenize", include_in_schema=False)
async def detokenize(request: Request, around: Around, record: Record) -> Response:
    """The text of token ids."""
    return await _answered(DETOKENIZE, request, around, record)


async def _answered(endpoint: Endpoint, request: Request, around: Surroundings, record: RequestRecord) -> Response:
    key = authenticated(request, around, record)
    document = await parse.document_of(request)
    wanted = parse.validate(endpoint.model, document)
    key.check_model(wanted.model)
    record.model = wanted.model[:200]
    body, known = parse.for_upstream(document, {}), wanted.tokens_known
    question = Question(
        path=endpoint.path,
        body=body,
        model=wanted.model,
        prompt_param=wanted.prompt_param,
        estimate=estimate_prompt_tokens(len(body)) if known is None else known,
        key=key,
        check=lambda info: check_capabilities(wanted.features(), info),
    )
    return await ask(question, record, around)
