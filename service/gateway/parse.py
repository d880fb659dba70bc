"""From a request's bytes to a validated request and the document that goes upstream; parsed once.

Owns the media type, JSON, and the words of a validation error. Refuses to own what a valid request is (protocol.py).
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request as HttpRequest
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.capabilities import TABLE, Feature
from service.gateway.conversation import Strict
from service.gateway.errors import InvalidRequest, UnsupportedMediaType
from service.gateway.headers import header
from service.gateway.protocol import IGNORED

Document = dict[str, Any]
Request = TypeVar("Request", bound=Strict)

_MESSAGE_CHARS = 300
_UNSUPPORTED = {rule.feature.param: rule.sentence for rule in TABLE if rule.feature is not Feature.PROMPT_TOKEN_IDS}
_FIELD_PREFIX = re.compile(r"^([a-z_]+): ")


async def document_of(request: HttpRequest) -> Document:
    """A request's body, once it has arrived.

    Raises:
        GatewayError: it is not declared as JSON, or is no JSON object, or did not arrive.
    """
    check_media_type(header(request.scope, b"content-type"))
    return parse_object(await _body_of(request))


async def _body_of(request: HttpRequest) -> bytes:
    """What Starlette's `body` gives, which costs more than most bodies' only message."""
    message = await request.receive()
    body: bytes = message["body"]
    if not message.get("more_body"):
        return body
    pieces = [body]
    while message.get("more_body"):
        message = await request.receive()
        pieces.append(message["body"])
    return b"".join(pieces)


def check_media_type(content_type: str | None) -> None:
    """415 says what is wrong; a 400 would blame the body.

    Raises:
        UnsupportedMediaType: not `application/json`, or a charset other than UTF-8.
    """
    if content_type == "application/json":
        return
    media_type, _, parameters = (content_type or "").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "')
    if media_type.strip() != "application/json" or charset not in {"", "utf-8", "utf8"}:
        raise UnsupportedMediaType("Send the body as JSON in UTF-8, with the header content-type: application/json.")


def parse_object(body: bytes) -> Document:
    """A JSON object. NaN, Infinity, invalid UTF-8, lone surrogates and deep nesting are not JSON here.

    Raises:
        InvalidRequest: anything else.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return document


def validate(model: type[Request], document: Document) -> Request:
    """The request as a model.

    Raises:
        InvalidRequest: the first thing that is wrong, with `param` its dotted path.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False), document) from error


def for_upstream(document: Document, additions: Mapping[str, Any]) -> bytes:
    """The client's document as SGLang gets it: nulls mean "default" and are left out, ignored fields too.

    Raises:
        InvalidRequest: nested too deeply to be written again.
    """
    kept = {key: value for key, value in document.items() if value is not None and key not in IGNORED}
    try:
        return orjson.dumps({**kept, **additions})
    except orjson.JSONEncodeError as error:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from error


def _invalid(errors: list[ErrorDetails], document: Document) -> InvalidRequest:
    """One error is told: of a union's members, the one that fits best fails deepest, or not on its type."""
    located = ((_json_path(error, document), error) for error in errors)
    path, error = max(located, key=lambda found: (len(found[0]), not found[1]["type"].endswith("_type")))
    message = error["msg"].removeprefix("Value error, ")
    if not path and (named := _FIELD_PREFIX.match(message)):
        path, message = [named[1]], message[named.end() :]
    if error["type"] == "extra_forbidden":
        message = _UNSUPPORTED.get(path[-1], "Unknown field.") if len(path) == 1 else "Unknown field."
    code = {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(error["type"], "invalid_value")
    param = ".".join(path) or None
    text = message[:_MESSAGE_CHARS]
    return InvalidRequest(f"{param}: {text}" if param else text, param=param, code=code)


def _json_path(error: ErrorDetails, document: Document) -> list[str]:
    """Where in the client's document: pydantic's location without its names of union members."""
    path: list[str] = []
    node: Any = document
    for step in error["loc"]:
        if (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int)):
            node = node[step]  # type: ignore[index]
            path.append(str(step)[:_MESSAGE_CHARS])
    if error["type"] == "missing":
        path.append(str(error["loc"][-1]))
    if error["type"].startswith("union_tag_"):
        path.append(error["ctx"]["discriminator"].strip("'"))
    return path
