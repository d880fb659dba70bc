"""The OpenAPI document: what FastAPI cannot see, because the routes parse bodies and write answers themselves.

Owns the document only. Refuses to own anything served by it; its examples are in examples.py.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.gateway import answers, errors, examples
from service.gateway.include import INCLUDE_HEADER, SPECULATION
from service.gateway.policy import MODE_HEADER, POOL_HEADER, Mode
from service.gateway.protocol import ChatCompletionRequest, CompletionRequest
from service.gateway.record import TASK_HEADER
from service.gateway.responses_protocol import ResponsesRequest
from service.gateway.tokens_protocol import DetokenizeRequest, TokenizeRequest

_REF = "#/components/schemas/{model}"

_ERRORS = {
    error.status: (description, error)
    for description, error in (
        (
            "The request cannot be served as it stands; `param` names the field.",
            errors.InvalidRequest(
                "temperature: Input should be less than or equal to 2", param="temperature", code="invalid_value"
            ),
        ),
        ("No API key, or none that is known and valid.", errors.Unauthorized("The API key is not valid.")),
        (
            "The key may not use this model.",
            errors.Forbidden("This key may not use the model 'llama-3.1-8b'.", param="model"),
        ),
        (
            "No such model.",
            errors.ModelNotFound(f"The model 'gpt-9' does not exist; served: {examples.MODEL}.", param="model"),
        ),
        ("The head or the body did not arrive in time.", errors.BodyTimeout("The body did not arrive within 30 s.")),
        ("The body is too large.", errors.PayloadTooLarge("The body is larger than 4194304 bytes.")),
        (
            "The body is not declared as JSON.",
            errors.UnsupportedMediaType(
                "Send the body as JSON in UTF-8, with the header content-type: application/json."
            ),
        ),
        (
            "The queue is full, the wait was too long, or the key's limit is reached; see Retry-After.",
            errors.Overloaded("The queue is full.", retry_after_s=3),
        ),
        ("The headers are too large.", errors.HeadersTooLarge("The headers are larger than 32768 bytes.")),
        ("A bug of the gateway.", errors.InternalError("The gateway failed on this request.")),
        (
            "The runtime failed, or broke the connection.",
            errors.UpstreamFailed("The runtime failed on this request (status 500)."),
        ),
        (
            "The runtime is not ready, or the gateway shuts down; see Retry-After.",
            errors.unavailable("The runtime cannot be reached."),
        ),
        (
            "The runtime was silent for too long.",
            errors.UpstreamTimeout("The runtime did not answer within 600 s."),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    answer: type[BaseModel] | None
    request: type[BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    generates: bool = False


_ALL = tuple(_ERRORS)
_OF_CONNECTIONS = (errors.HeadTimeout.status, errors.HeadersTooLarge.status)
_OPERATIONS = {
    "/v1/chat/completions": _Operation("post", answers.ChatCompletion, ChatCompletionRequest, _ALL, generates=True),
    "/v1/completions": _Operation("post", answers.Completion, CompletionRequest, _ALL, generates=True),
    "/v1/responses": _Operation("post", answers.ResponseObject, ResponsesRequest, _ALL, generates=True),
    "/v1/tokenize": _Operation("post", answers.Tokenized, TokenizeRequest, _ALL),
    "/v1/detokenize": _Operation("post", answers.Detokenized, DetokenizeRequest, _ALL),
    "/v1/models": _Operation("get", answers.ModelList, statuses=(401, 500, 503)),
    "/v1/models/{model}": _Operation("get", answers.ModelCard, statuses=(401, 403, 404, 500, 503)),
    "/healthz": _Operation("get", answers.Health, statuses=(500,)),
    "/readyz": _Operation("get", answers.Health, statuses=(500,)),
    "/metrics": _Operation("get", None, statuses=(500,)),
}

_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
_REQUEST_ID = {"description": "The client's own, if it is short and plain.", "schema": {"type": "string"}}
_POOL = {
    "description": "Which pool answered, and why.",
    "schema": {"type": "string"},
    "example": "eagle; reason=default",
}
_PARAMETERS = [
    {
        "name": MODE_HEADER,
        "in": "header",
        "description": "Whether to speculate; the pool is chosen by it.",
        "schema": {"type": "string", "enum": [mode.value for mode in Mode]},
        "example": Mode.AUTO.value,
    },
    {
        "name": INCLUDE_HEADER,
        "in": "header",
        "description": "What else `usage` holds; a stream that is asked for it ends with its usage.",
        "schema": {"type": "string", "enum": [SPECULATION]},
        "example": SPECULATION,
    },
    {
        "name": TASK_HEADER,
        "in": "header",
        "description": "What kind of work it is, of those that the operator has named: acceptance is counted for each.",
        "schema": {"type": "string"},
        "example": "code",
    },
]


def describe(app: FastAPI) -> None:
    """Complete the document FastAPI makes, once."""
    document = FastAPI.openapi(app)
    models: list[type[BaseModel]] = [answers.ErrorBody]
    for operation in _OPERATIONS.values():
        models += [model for model in (operation.request, operation.answer) if model is not None]
    _, definitions = models_json_schema([(model, "validation") for model in set(models)], ref_template=_REF)
    document["components"] = {
        "schemas": dict(sorted(definitions["$defs"].items())),
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    for path, operation in _OPERATIONS.items():
        document["paths"][path][operation.method] |= _described(path, operation)


def _described(path: str, operation: _Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": ["OpenAI" if path.startswith("/v1/") else "Operations"],
        "responses": {
            "200": _answer(path, operation),
            **{str(status): _error(status) for status in sorted({*operation.statuses, *_OF_CONNECTIONS})},
        },
    }
    if operation.request is not None:
        given = {name: {"value": value} for name, value in examples.REQUESTS[path].items()}
        body = {"schema": _schema(operation.request), "examples": given}
        described["requestBody"] = {"required": True, "content": {"application/json": body}}
    if path.startswith("/v1/"):
        described["security"] = [{"key": []}, {}]
    if operation.generates:
        described["parameters"] = _PARAMETERS
    if path == "/readyz":
        unready = {"status": "unavailable", "reason": "The runtime is not ready: /ready answers 503."}
        described["responses"]["503"] = {
            "description": "Draining, or no runtime takes requests.",
            "headers": {"retry-after": _RETRY_AFTER},
            "content": {"application/json": {"schema": _schema(answers.Health), "example": unready}},
        }
    return described


def _answer(path: str, operation: _Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is None:
        content["text/plain"] = {"schema": {"type": "string"}, "example": "aerie_requests_in_flight 3.0\n"}
    else:
        content["application/json"] = {"schema": _schema(operation.answer), "example": examples.ANSWERS[path]}
    if path in examples.STREAMS:
        content["text/event-stream"] = {"example": examples.STREAMS[path]}  # OpenAPI 3.1 has no words for events
    headers = {"x-request-id": _REQUEST_ID} | ({POOL_HEADER: _POOL} if operation.generates else {})
    return {"description": "The answer.", "headers": headers, "content": content}


def _error(status: int) -> dict[str, Any]:
    description, error = _ERRORS[status]
    body = {"schema": _schema(answers.ErrorBody), "example": orjson.loads(error.body)}
    headers = {"retry-after": _RETRY_AFTER} if error.retry_after_s is not None else {}
    return {"description": description, "headers": headers, "content": {"application/json": body}}


def _schema(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
