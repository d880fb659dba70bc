"""Web pages: nothing of CORS unless origins are named; then exactly these, with every header that our answers add."""

import pytest
from pydantic import ValidationError

from service.gateway.settings import Settings
from tests.service.gateway.conftest import gateway_before
from tests.service.gateway.test_guard import bearer, entry, file  # noqa: F401 - a fixture

CHAT = "/v1/chat/completions"
PAGE = "https://chat.example.com"
READABLE_BY_ANY = {"cache-control", "content-length", "content-type"}
OURS = {"access-control-allow-origin", "access-control-expose-headers", "vary", "date", "server", "transfer-encoding"}


def preflight(client, origin=PAGE, method="POST", headers="authorization,content-type,x-stainless-lang"):
    asked = {"access-control-request-method": method, "access-control-request-headers": headers}
    return client.options(CHAT, headers={"origin": origin, **asked})


@pytest.fixture
def client(upstream, file):  # noqa: F811
    file.holds(entry(limits={"requests_per_s": 0.1, "burst": 1, "tokens_per_min": 100_000}))
    with gateway_before(upstream.url, keys=file.path, cors_origins=f"https://other.example.com, {PAGE}") as client:
        yield client


def test_it_is_off_unless_origins_are_named(gateway, chat):
    answer = preflight(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    answer = gateway.post(CHAT, json=chat, headers={"origin": PAGE})
    assert answer.is_success
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_of_a_named_origin_needs_no_key_and_allows_what_clients_send(client):
    answer = preflight(client)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-lang"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("asked", [{"origin": "https://evil.example.com"}, {"method": "DELETE"}])
def test_a_preflight_of_anybody_or_anything_else_is_refused(client, asked):
    answer = preflight(client, **asked)
    assert answer.status_code == 400
    assert answer.headers.get("access-control-allow-origin") in (None, PAGE)


@pytest.mark.parametrize("stream", [False, True])
def test_a_page_may_read_every_header_of_answers_and_errors(client, chat, stream):
    headers = bearer() | {"origin": PAGE}
    answers = [client.post(CHAT, json=chat | {"stream": stream}, headers=headers) for _ in range(2)]
    answers.append(client.post(CHAT, json=chat, headers={"origin": PAGE}))
    assert [answer.status_code for answer in answers] == [200, 429, 401]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert set(answer.headers) - exposed - READABLE_BY_ANY - OURS <= {"www-authenticate"}


def test_other_pages_get_no_permission_to_read(client, chat):
    answer = client.post(CHAT, json=chat, headers=bearer() | {"origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in answer.headers


def test_every_origin_can_be_allowed(upstream, chat):
    with gateway_before(upstream.url, cors_origins="*") as client:
        assert preflight(client).headers["access-control-allow-origin"] == "*"
        answer = client.post(CHAT, json=chat, headers={"origin": PAGE})
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origins", ["", "chat.example.com", "https://a/", "https://a/b", "ftp://a", "https://A", "https://u@a", "null"]
)
def test_what_no_browser_would_send_as_an_origin_is_an_error_at_the_start(origins):
    with pytest.raises(ValidationError, match="origin"):
        Settings(cors_origins=origins)


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000", "http://[::1]:3000", "*"])
def test_what_a_browser_sends_is_fine(origin):
    assert Settings(cors_origins=origin).cors_origins == (origin,)
