"""The OpenAPI document: what FastAPI cannot see, because the routes parse bodies themselves.

Owns the document only. Refuses to own anything served by it.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.gateway.protocol import ChatCompletionRequest, CompletionRequest
from service.gateway.responses_protocol import ResponsesRequest

_REF = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
}
_ERRORS = {
    "400": "The request cannot be served as it stands; `param` names the field.",
    "401": "No API key, or none that is known and valid.",
    "403": "The key may not use this model.",
    "404": "No such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "The queue is full, the wait was too long, or the key's limit is reached; see Retry-After.",
    "500": "A bug of the gateway.",
    "502": "The runtime failed, or broke the connection.",
    "503": "The runtime is not ready, or the gateway shuts down; see Retry-After.",
    "504": "The runtime was silent for too long.",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error body."""

    error: ErrorDetail


def describe(app: FastAPI) -> None:
    """Complete the document FastAPI makes, once."""
    document = FastAPI.openapi(app)
    models: list[type[BaseModel]] = [*_BODIES.values(), ErrorBody]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, model in _BODIES.items():
        body = {"required": True, "content": _json(model)}
        document["paths"][path]["post"] |= {"requestBody": body, "security": [{"key": []}, {}]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _describe_responses(operation["responses"], generates=path in _BODIES)


def _describe_responses(responses: dict[str, Any], *, generates: bool) -> None:
    responses.pop("422", None)  # ours are 400
    statuses = _ERRORS if generates else {"503": _ERRORS["503"]}
    for status, description in statuses.items():
        responses.setdefault(status, {"description": description, "content": _json(ErrorBody)})
    if generates:
        responses["200"]["content"] = {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        }


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
