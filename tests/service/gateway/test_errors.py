"""Errors know their status, and foreign ones become ours in one place."""

import orjson
import pytest

from service.gateway import errors
from service.gateway.errors import GatewayError, from_http, from_sglang, sglang_message
from service.gateway.http1 import CannotConnect, CutShort, NoAnswer, NotHttp, TimedOut


def tree(kind=GatewayError):
    return [kind, *(descendant for child in kind.__subclasses__() for descendant in tree(child))]


def test_every_error_has_a_code_of_its_own():
    kinds = [kind for kind in tree() if kind is not errors.GatewayError]
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_a_body_is_openais(kind):
    error = orjson.loads(kind("why", param="x").body)["error"]
    assert error == {"message": "why", "type": kind.type, "param": "x", "code": kind.code}
    assert 400 <= kind.status < 600


@pytest.mark.parametrize(
    ("foreign", "status"),
    [(CannotConnect(), 503), (TimedOut(), 504), (NoAnswer(), 502), (CutShort(), 502), (NotHttp(), 502)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_what_the_http_client_raises_is_mapped(foreign, status):
    assert from_http(foreign).status == status


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500, 502, 503, 504, 599])
def test_every_status_of_the_runtime_maps_to_an_error_with_a_message(status):
    error = from_sglang(status, "", prompt_param="messages")
    assert error.message
    assert 400 <= error.status < 600


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"message": 3}', b'{"error": "x"}', b'{"error": {}}'])
def test_a_body_without_a_message_has_none(body):
    assert sglang_message(body) == ""
