"""Keys and their limits as clients meet them, and the key file while the gateway runs."""

import functools
import hashlib
import json
import logging
import os
import signal
from contextlib import ExitStack
from datetime import date

import openai
import pytest
import yaml

from service.gateway import guard as guard_module
from service.gateway import keyfile
from service.gateway.log import JsonFormatter
from service.gateway.reload import OptionalFile
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import aerie, counter, gateway_with, key, samples, until
from tests.service.gateway.scripted_upstream import MODEL, Hold, Release, Script
from tests.service.gateway.test_drain import process

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
ALICE, BOB = "aerie-alice", "aerie-bob"
RED = wire.chunk("a", "Red")


def sha256(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


def entry(secret=ALICE, key_id="alice", **fields):
    return {"id": key_id, "sha256": sha256(secret), **fields}


def bearer(secret=ALICE):
    return {"authorization": f"Bearer {secret}"}


class KeyFile:
    """A file that is replaced as a whole, as editors and Kubernetes do it."""

    def __init__(self, folder):
        self.path = folder / "keys.yaml"

    def holds(self, *entries):
        self.says(yaml.safe_dump({"keys": list(entries)}))

    def says(self, text):
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path)


@pytest.fixture
def start(file, upstream, monkeypatch):
    """`start(*entries)`: a gateway that knows these keys and looks at the file often, as a client without a key."""
    monkeypatch.setattr(guard_module, "OptionalFile", functools.partial(OptionalFile, interval_s=0.02))

    def one(*entries, config=None):
        file.holds(*entries)
        runtimes = {"upstream": upstream.url} if config is None else {"config": config}
        return stack.enter_context(gateway_with(keys=file.path, **runtimes))

    with ExitStack() as stack:
        yield one


def sdk(client, secret=ALICE):
    return openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=secret, max_retries=0)


def refusal(response):
    return response.status_code, response.json()["error"]["code"]


def asked(client, body, secret=ALICE):
    """The answer to a request, once it is accounted for: the limits know it."""
    finished = finished_requests(client)
    response = client.post(CHAT, json=body, headers=bearer(secret))
    until(lambda: finished_requests(client) > finished, "the request's end")
    return response


def finished_requests(client):
    return sum(value for (name, labels), value in samples(client).items() if labels_of_chat(name, labels))


def labels_of_chat(name, labels):
    return name == "aerie_requests_total" and ("route", CHAT) in labels


# Who may ask


@pytest.mark.parametrize("headers", [{}, {"authorization": ALICE}, bearer("aerie-nobody"), bearer(sha256(ALICE))])
def test_without_a_known_key_everything_of_the_api_is_a_401_that_names_the_scheme(start, chat, upstream, headers):
    client = start(entry())
    for response in (
        client.post(CHAT, json=chat, headers=headers),
        client.post("/v1/completions", json={"model": MODEL, "prompt": "a"}, headers=headers),
        client.post("/v1/responses", json={"model": MODEL, "input": "a"}, headers=headers),
        client.post(CHAT, content=b"no json", headers=headers),
        client.get(MODELS, headers=headers),
        client.get(f"{MODELS}/{MODEL}", headers=headers),
    ):
        assert refusal(response) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert upstream.generated == []
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).is_success


def test_the_openai_sdk_sees_what_went_wrong(start, chat):
    with sdk(start(entry(limits={"requests_per_s": 0.001, "burst": 1}, models=[MODEL]))) as client:
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").chat.completions.create(**chat)
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(**chat | {"model": "gpt-4"})
        assert client.chat.completions.create(**chat).choices[0].message.content == "Red and blue"
        with pytest.raises(openai.RateLimitError, match="requests per second"):
            client.chat.completions.create(**chat)


def test_a_key_may_use_the_models_on_its_list_only(start, chat, upstream):
    client = start(entry(models=["gpt-4"]), entry(BOB, "bob"))
    response = client.post(CHAT, json=chat, headers=bearer())
    assert refusal(response) == (403, "model_not_allowed")
    assert response.json()["error"]["param"] == "model"
    assert client.get(MODELS, headers=bearer()).json()["data"] == []
    assert refusal(client.get(f"{MODELS}/{MODEL}", headers=bearer())) == (403, "model_not_allowed")
    assert upstream.generated == []
    assert [card["id"] for card in client.get(MODELS, headers=bearer(BOB)).json()["data"]] == [MODEL]
    assert client.get(f"{MODELS}/{MODEL}", headers=bearer(BOB)).json()["id"] == MODEL
    assert client.post(CHAT, json=chat, headers=bearer(BOB)).is_success


def test_an_expired_key_is_a_401(start, chat):
    client = start(entry(expires=date(2020, 1, 1)))
    assert refusal(client.post(CHAT, json=chat, headers=bearer())) == (401, "invalid_api_key")


def test_the_key_says_whether_to_speculate_and_the_header_knows_better(start, tmp_path, upstream, chat):
    replicas = [upstream.url]
    pools = [{"name": "eagle", "replicas": replicas}, {"name": "plain", "kind": "baseline", "replicas": replicas}]
    config = tmp_path / "gateway.yaml"
    config.write_text(yaml.safe_dump({"pools": pools}))
    client = start(entry(speculation="off"), entry(BOB, "bob", speculation="on"), config=config)
    until(lambda: sum(value for (name, _), value in samples(client).items() if name == "aerie_upstream_up") == 2)
    answers = [
        client.post(CHAT, json=chat, headers=bearer(secret) | headers).headers["x-aerie-pool"]
        for secret, headers in ((ALICE, {}), (BOB, {}), (ALICE, {"x-aerie-speculation": "on"}))
    ]
    assert answers == ["plain; reason=key_off", "eagle; reason=key_on", "eagle; reason=asked_on"]


# How much


def test_more_requests_than_the_key_may_are_a_429_that_says_when(start, chat, upstream):
    client = start(entry(limits={"requests_per_s": 0.001, "burst": 2}), entry(BOB, "bob"))
    grew = counter(client)
    for left in ("1", "0"):
        response = client.post(CHAT, json=chat | {"stream": left == "1"}, headers=bearer())
        assert response.is_success
        assert response.headers["x-ratelimit-limit-requests"] == "2"
        assert response.headers["x-ratelimit-remaining-requests"] == left
    response = client.post(CHAT, json=chat, headers=bearer())
    assert refusal(response) == (429, "rate_limit_exceeded")
    assert 900 <= int(response.headers["retry-after"]) <= 1000
    assert 900_000 <= int(response.headers["retry-after-ms"]) <= 1_000_000
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert grew("aerie_refusals_total", code="rate_limit_exceeded") == 1
    assert len(upstream.generated) == 2
    response = client.post(CHAT, json=chat, headers=bearer(BOB))
    assert response.is_success
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_a_key_with_one_request_at_a_time_waits_for_its_end(start, chat, upstream):
    client = start(entry(limits={"concurrent": 1}), entry(BOB, "bob"))
    release = Release()
    upstream.script = Script(steps=[RED, release, wire.DONE])
    with client.stream("POST", CHAT, json=chat | {"stream": True}, headers=bearer()) as first:
        chunks = first.iter_raw()
        assert next(chunks) == RED
        upstream.script = Script()
        response = client.post(CHAT, json=chat, headers=bearer())
        assert refusal(response) == (429, "rate_limit_exceeded")
        assert response.headers["retry-after"] == "1"
        assert client.post(CHAT, json=chat, headers=bearer(BOB)).is_success
        release.now.set()
        assert b"".join(chunks) == wire.DONE
    for _ in range(3):
        assert asked(client, chat).is_success


@pytest.mark.parametrize("stream", [False, True])
def test_one_request_after_the_other_is_one_at_a_time(start, chat, stream):
    client = start(entry(limits={"concurrent": 1}))
    for _ in range(40):
        assert client.post(CHAT, json=chat | {"stream": stream}, headers=bearer()).is_success


COSTLY = {"max_tokens": 5000}
"""More than half of what a minute allows, by the estimate; 45 tokens in truth."""
TOKENS = {"tokens_per_min": 6000}


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_charged_by_what_was_used(start, chat, stream):
    client = start(entry(limits=TOKENS))
    for _ in range(3):
        response = asked(client, chat | COSTLY | {"stream": stream})
        assert response.is_success
        assert response.headers["x-ratelimit-limit-tokens"] == "6000"
        assert int(response.headers["x-ratelimit-remaining-tokens"]) < 1000  # before it is settled


def test_what_was_refused_or_not_served_costs_nothing(start, chat, upstream):
    client = start(entry(limits=TOKENS))
    too_long = wire.error("The input (9043 tokens) is longer than the model's context length (8192 tokens).", 400)
    full, dying = wire.error("The request queue is full.", 503), wire.error("Server is shutting down", 503)
    for answer, status in ((too_long, 400), (full, 429), (dying, 503)):
        upstream.script = Script(status=answer["code"], body=json.dumps(answer).encode())
        assert asked(client, chat | COSTLY).status_code == status
    upstream.script = Script()
    assert asked(client, chat | COSTLY | {"temperature": 9}).status_code == 400
    assert asked(client, chat | COSTLY).is_success


def test_leaving_before_the_usage_is_known_is_not_free(start, chat, upstream):
    client = start(entry(limits=TOKENS))
    upstream.script = Script(steps=[RED, Hold()])
    body = chat | COSTLY | {"stream": True}
    with client.stream("POST", CHAT, json=body, headers=bearer()) as response:
        assert next(response.iter_raw()) == RED
    until(lambda: upstream.aborted, "the abort")
    upstream.script = Script()
    response = client.post(CHAT, json=body, headers=bearer())
    assert refusal(response) == (429, "rate_limit_exceeded")
    assert int(response.headers["retry-after"]) >= 1


def test_a_request_larger_than_the_limit_is_a_400_at_once(start, chat, upstream):
    client = start(entry(limits=TOKENS))
    assert refusal(client.post(CHAT, json=chat | {"max_tokens": 7000}, headers=bearer())) == (
        400,
        "request_exceeds_limit",
    )
    assert upstream.generated == []


# The file


def knows(client, secret):
    return client.get(MODELS, headers=bearer(secret)).is_success


def gauges(client):
    found = samples(client)
    return [found[key(name, {})] for name in ("aerie_keys_generation", "aerie_keys_stale")]


def test_a_replaced_file_takes_effect_and_a_broken_one_keeps_the_old_keys(start, file, chat):
    client = start(entry(limits={"requests_per_s": 0.001, "burst": 1}))
    assert gauges(client) == [1, 0]
    assert client.post(CHAT, json=chat, headers=bearer()).is_success
    file.holds(entry(limits={"requests_per_s": 0.001, "burst": 1}), entry(BOB, "bob"))
    until(lambda: knows(client, BOB))
    assert gauges(client) == [2, 0]
    assert refusal(client.post(CHAT, json=chat, headers=bearer())) == (429, "rate_limit_exceeded")  # not forgotten
    file.says(f"keys: [{{id: carol, sha256: {BOB}}}]")
    until(lambda: gauges(client) == [2, 1])
    assert knows(client, ALICE)
    assert knows(client, BOB)
    file.holds(entry(BOB, "bob"))
    until(lambda: not knows(client, ALICE))
    assert gauges(client) == [3, 0]
    assert knows(client, BOB)


def test_a_key_withdrawn_while_it_is_used_ends_nothing_that_runs(start, file, chat, upstream):
    client = start(entry(), entry(BOB, "bob"))
    release = Release()
    upstream.script = Script(steps=[RED, release, wire.DONE])
    with client.stream("POST", CHAT, json=chat | {"stream": True}, headers=bearer()) as response:
        chunks = response.iter_raw()
        assert next(chunks) == RED
        file.holds(entry(BOB, "bob"))
        until(lambda: not knows(client, ALICE))
        release.now.set()
        assert b"".join(chunks) == wire.DONE


def test_a_file_that_cannot_be_used_is_one_line_and_no_start(file, capsys):
    file.says(f"keys: [{{id: alice, sha256: {ALICE}}}]")
    assert aerie("gateway", "--keys", str(file.path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aerie: {file.path}: keys[0].sha256: must be the key's SHA-256 in quotes")
    assert ALICE not in line


def test_the_key_command_prints_an_entry_that_a_key_file_takes(start, file, capsys):
    assert aerie("key", "--id", "on") == 0
    printed = capsys.readouterr()
    secret = printed.err.split()[-1]
    assert secret not in printed.out
    (found,) = keyfile.parse(f"keys:\n{printed.out}".encode()).keys
    assert (found.id, found.sha256) == ("on", sha256(secret))
    client = start(*yaml.safe_load(f"keys:\n{printed.out}")["keys"])
    assert knows(client, secret)
    assert aerie("key", "--id", "Not An Id") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aerie: id: ")


# A process of its own, and what it writes


def test_sighup_reads_the_file_and_neither_keys_nor_prompts_are_written(file, upstream, chat):
    file.holds(entry(limits={"requests_per_s": 0.01, "burst": 1}))
    with process(upstream.url, keys=file.path, log_level="debug") as (running, client):
        assert not knows(client, BOB)
        before, times = file.path.read_text(), file.path.stat()
        file.path.write_text(before.replace(sha256(ALICE), sha256(BOB)))
        os.utime(file.path, ns=(times.st_atime_ns, times.st_mtime_ns))  # polling sees no change
        running.send_signal(signal.SIGHUP)
        until(lambda: knows(client, BOB))
        assert not knows(client, ALICE)
        for _ in range(2):
            client.post(CHAT, json=chat, headers=bearer(BOB))
        client.post(f"{CHAT}?key={BOB}", json=chat | {"temperature": "colours"}, headers=bearer(BOB))
        file.says(f"keys: [{{id: alice, sha256: {BOB}}}]")
        running.send_signal(signal.SIGHUP)
        until(lambda: gauges(client) == [2, 1])
        assert knows(client, BOB)
        running.send_signal(signal.SIGTERM)
        _, written = running.communicate(timeout=20)
    lines = [json.loads(line) for line in written.splitlines()]
    assert "bob" not in written.decode().lower()
    assert not [
        word for word in (ALICE, sha256(ALICE), sha256(BOB), "colours", "Red", "Bearer") if word in written.decode()
    ]
    assert sorted(line["status"] for line in lines if line.get("path") == CHAT) == [200, 400, 429]
    assert {line["key"] for line in lines if line.get("path") == CHAT} == {"alice"}
    assert [line["message"] for line in lines if line["logger"] == "aerie.reload"] == [
        "reloaded",
        "reload failed, the old value stays",
    ]


def test_nothing_that_is_logged_holds_a_key_or_a_prompt(start, file, upstream, chat, caplog):
    caplog.set_level(logging.DEBUG, logger="aerie")
    client = start(entry())
    client.post(CHAT, json=chat, headers=bearer())
    client.post(CHAT, json=chat, headers=bearer("aerie-wrong"))
    upstream.script = Script(status=503, body=json.dumps(wire.error("colours", 503)).encode())
    asked(client, chat | {"stream": True})
    file.says(f"{ALICE}: [")
    until(lambda: gauges(client) == [1, 1])
    written = "\n".join(map(JsonFormatter().format, caplog.records))
    assert '"status":401' in written
    assert not [word for word in (ALICE, sha256(ALICE), "aerie-wrong", "colours", "Red", "Bearer") if word in written]


def test_requests_are_counted_by_the_class_of_their_key_and_by_no_key(start, chat):
    client = start(entry(**{"class": "batch"}), entry(BOB, "bob"))
    grew = counter(client)
    assert asked(client, chat).is_success
    assert asked(client, chat | {"model": "gpt-4"}).status_code == 404
    assert asked(client, chat, BOB).is_success
    assert client.post(CHAT, json=chat).status_code == 401
    for key_class, outcome, requests in (("batch", "ok", 1), ("batch", "rejected", 1), ("default", "ok", 1)):
        assert grew("aerie_key_class_requests_total", key_class=key_class, outcome=outcome) == requests
    assert total_of(client, "aerie_key_class_requests_total") == 3


def total_of(client, name):
    return sum(value for (found, _), value in samples(client).items() if found == name)
