"""A gateway before several pools: which replica serves, what happens when one cannot, who waits and who is refused."""

import json
import random
import signal
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import yaml

from service.gateway import pool as pool_module
from service.gateway.breaker import Breaker, BreakerPolicy
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import aerie, counter, events, gateway_with, key, samples, summed, until
from tests.service.gateway.scripted_upstream import MODEL, Cut, Hold, Release, Script, ScriptedUpstream, served
from tests.service.gateway.test_drain import process, refused

CHAT = "/v1/chat/completions"
NEVER_AGAIN_S = 600
"""Between probes, where a test is about what happens before the next one."""
RED = wire.chunk("a", "Red")
DYING = Script(status=503, body=json.dumps(wire.error("Server is shutting down", 503, "503")).encode())


@pytest.fixture
def start(tmp_path):
    """`start(*pools, **sections)`: a gateway with that file, every replica ready, as a client. It must end with nothing
    left behind."""

    def one(*pools, settings=None, **sections):
        client = stack.enter_context(gateway_with(config=written(tmp_path, *pools, **sections), **(settings or {})))
        replicas = sum(len(pool["replicas"]) for pool in pools)
        until(lambda: total(client, "aerie_upstream_up") == replicas, "every replica's readiness")
        started.append(client)
        return client

    started = []
    with ExitStack() as stack:
        yield one
        for client in started:
            for name in (
                "aerie_requests_in_flight",
                "aerie_upstream_requests_in_flight",
                "aerie_queue_waiting_requests",
            ):
                until(lambda: total(client, name) == 0, f"{name} == 0")  # noqa: B023 - called in this turn


@pytest.fixture
def beside():
    """`beside(work, ...)`: it goes on in another thread; a future."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def written(folder, *pools, **sections):
    return replaced(folder / "gateway.yaml", yaml.safe_dump({"pools": list(pools), **sections}))


def replaced(path, text):
    """The file holds this, at no time a part of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    return new.replace(path)


def pool(name, *runtimes, **fields):
    return {"name": name, "replicas": [runtime.url for runtime in runtimes], **fields}


def eagle(*runtimes, **fields):
    return pool("eagle", *runtimes, kind="speculative", **fields)


def plain(*runtimes, **fields):
    return pool("plain", *runtimes, kind="baseline", **fields)


def total(client, name):
    return sum(value for (found, _), value in samples(client).items() if found == name)


def of_replica(client, name, pool_name, runtime):
    return samples(client)[key(name, {"pool": pool_name, "replica": runtime.url.removeprefix("http://")})]


def asking(chat, text):
    return chat | {"messages": [{"role": "user", "content": text}]}


def conversations(chat, many=24):
    return [asking(chat, f"Question {number}") for number in range(many)]


def whose(client, runtimes, body):
    """The replica to which this conversation goes, and the others."""
    seen = [len(runtime.generated) for runtime in runtimes]
    assert client.post(CHAT, json=body).is_success
    (mine,) = [runtime for runtime, before in zip(runtimes, seen, strict=True) if len(runtime.generated) > before]
    return mine, [runtime for runtime in runtimes if runtime is not mine]


def served_by(client, body, mode=None):
    """Pool and reason, as the answer says."""
    response = client.post(CHAT, json=body, headers={} if mode is None else {"x-aerie-speculation": mode})
    assert response.is_success, response.text
    return response.headers["x-aerie-pool"]


def refusal(response):
    return response.status_code, response.json()["error"]["code"]


@contextmanager
def occupied(client, runtime, body, **headers):
    """A stream is under way at this runtime, which answers what comes next as usual; it ends well with the context."""
    release = Release()
    runtime.script = Script(steps=[RED, release, wire.DONE])
    with client.stream("POST", CHAT, json=body | {"stream": True}, headers=headers) as response:
        chunks = response.iter_raw()
        assert next(chunks) == RED
        runtime.script = Script()
        try:
            yield response
        finally:
            release.now.set()
        assert b"".join(chunks) == wire.DONE


@contextmanager
def connection(client, body):
    """A request sent over a connection of its own; leaving the context is leaving the gateway."""
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as opened:
        opened.sendall(head.encode() + data)
        yield opened


# Replicas that cannot serve


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_answers_503_is_replaced_and_the_client_notices_nothing(start, runtimes, chat, stream):
    client = start(eagle(*runtimes[:2]))
    mine, (other,) = whose(client, runtimes[:2], chat)
    grew = counter(client)
    mine.script = DYING
    response = client.post(CHAT, json=chat | {"stream": stream})
    assert response.is_success
    assert response.headers["x-aerie-pool"] == "eagle; reason=only_pool"
    assert len(response.headers.get_list("x-aerie-pool")) == 1
    assert [request["rid"] for request in other.generated] == [mine.generated[-1]["rid"]]
    assert grew("aerie_upstream_retries_total", pool="eagle") == 1
    until(lambda: grew("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 1)
    assert mine.aborted == other.aborted == []


def test_a_503_as_a_streams_first_event_is_replaced_too(start, runtimes, chat):
    client = start(eagle(*runtimes[:2]))
    mine, (other,) = whose(client, runtimes[:2], chat)
    mine.script = Script(steps=[wire.event({"error": wire.error("Server is shutting down", 503)}), wire.DONE])
    response = client.post(CHAT, json=chat | {"stream": True})
    assert response.content == b"".join([*wire.stream_of(other.generated[0]["rid"])[:-3], wire.DONE])


FULL = wire.error("The request queue is full.", 503)


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_whose_own_queue_is_full_is_passed_over_and_not_blamed(start, runtimes, chat, stream):
    client = start(eagle(*runtimes[:2]))
    mine, (other,) = whose(client, runtimes[:2], chat)
    grew = counter(client)
    full = Script(steps=[wire.event({"error": FULL}), wire.DONE]) if stream else Script(503, json.dumps(FULL).encode())
    mine.script = full
    for _ in range(6):  # more than would open a breaker
        assert client.post(CHAT, json=chat | {"stream": stream}).is_success
    assert (len(mine.generated), len(other.generated)) == (7, 6)
    assert grew("aerie_upstream_retries_total", pool="eagle") == 6
    other.script = full
    response = client.post(CHAT, json=chat | {"stream": stream})
    assert refusal(response) == (429, "queue_full")
    assert int(response.headers["retry-after"]) > 0
    assert grew("aerie_refusals_total", code="queue_full") == 1
    assert mine.aborted == other.aborted == []


def test_a_replica_that_refuses_connections_is_replaced(start, runtimes, chat):
    gone = ScriptedUpstream()
    with ExitStack() as stack:
        gone.url = stack.enter_context(served(gone))
        client = start(eagle(gone, runtimes[0]), settings={"probe_interval_s": NEVER_AGAIN_S})
        theirs = [body for body in conversations(chat) if whose(client, [gone, runtimes[0]], body)[0] is gone]
        assert theirs
    grew = counter(client)
    assert all(client.post(CHAT, json=body).is_success for body in theirs[:3])
    assert grew("aerie_upstream_retries_total", pool="eagle") == len(theirs[:3])


def test_a_request_that_no_replica_takes_is_a_503_and_no_retry_is_counted_where_nobody_is_left(start, runtimes, chat):
    for many in (1, 2):
        client = start(eagle(*runtimes[:many]))
        for runtime in runtimes[:many]:
            runtime.script = DYING
        grew = counter(client)
        response = client.post(CHAT, json=chat)
        assert refusal(response) == (503, "upstream_unavailable")
        assert "retry-after" in response.headers
        assert grew("aerie_upstream_retries_total", pool="eagle") == many - 1
        for runtime in runtimes[:many]:
            runtime.reset()


BROKEN_LATER = {
    "unavailable": [RED, wire.event({"error": wire.error("Server is shutting down", 503)}), wire.DONE],
    "cut": [RED, Cut()],
}


@pytest.mark.parametrize("steps", BROKEN_LATER.values(), ids=BROKEN_LATER)
def test_after_the_first_byte_nobody_else_is_asked(start, runtimes, chat, steps):
    client = start(eagle(*runtimes[:2]))
    mine, (other,) = whose(client, runtimes[:2], chat)
    mine.script = Script(steps=steps)
    response = client.post(CHAT, json=chat | {"stream": True})
    first, last = events(response)
    assert json.loads(first)["choices"][0]["delta"]["content"] == "Red"
    assert "error" in json.loads(last)
    assert other.generated == []
    assert total(client, "aerie_upstream_retries_total") == 0


PROXYS = Script(status=502, body=b"<html>502 Bad Gateway</html>")
"""nginx's word when the runtime could not be reached, and when it died after reading the request."""


@pytest.mark.parametrize("failing", [Script(before_head=Cut()), PROXYS], ids=["cut", "502"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_connection_broke_is_not_sent_again(start, runtimes, chat, stream, failing):
    client = start(eagle(*runtimes[:2]), plain(runtimes[2]), policy={"baseline_share": 0})
    mine, (other,) = whose(client, runtimes[:2], chat | {"temperature": 0})
    mine.script = failing
    response = client.post(CHAT, json=chat | {"stream": stream}, headers={"x-aerie-speculation": "on"})
    assert refusal(response) == (502, "upstream_protocol_error")
    assert other.generated == runtimes[2].generated == []
    assert mine.aborted == [mine.generated[-1]["rid"]]
    assert total(client, "aerie_upstream_retries_total") == 0


def test_a_replica_that_keeps_failing_is_left_alone_until_a_trial_goes_well(start, runtimes, chat, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(
        pool_module, "Breaker", lambda policy, clock, rng: Breaker(policy, clock=lambda: now_s[0], rng=rng)
    )
    client = start(eagle(*runtimes[:2]))
    mine, (other,) = whose(client, runtimes[:2], chat)
    mine.script, seen = DYING, len(mine.generated)
    grew = counter(client)
    for _ in range(9):
        assert client.post(CHAT, json=chat).is_success
    assert len(mine.generated) - seen == 5
    assert len(other.generated) == 9
    assert grew("aerie_upstream_retries_total", pool="eagle") == 5
    assert of_replica(client, "aerie_upstream_breaker_closed", "eagle", mine) == 0
    assert of_replica(client, "aerie_upstream_up", "eagle", mine) == 1
    mine.script = Script()
    now_s[0] += BreakerPolicy().backoff_s
    assert client.post(CHAT, json=chat).is_success
    assert len(mine.generated) - seen == 6
    until(lambda: of_replica(client, "aerie_upstream_breaker_closed", "eagle", mine) == 1)


def test_a_request_is_not_counted_at_replicas_that_could_not_serve_it(start, runtimes, chat):
    client = start(eagle(*runtimes[:3]), plain(runtimes[3]), policy={"baseline_share": 0})
    for runtime in runtimes[:3]:
        runtime.script = DYING
    with occupied(client, runtimes[3], chat) as response:
        assert response.headers["x-aerie-pool"] == "plain; reason=failover"
        assert [of_replica(client, "aerie_upstream_requests_in_flight", "eagle", each) for each in runtimes[:3]] == [
            0
        ] * 3


# Conversations


def test_a_conversation_stays_on_one_replica_and_conversations_spread(start, runtimes, chat):
    client = start(eagle(*runtimes[:3]))
    homes = Counter()
    for body in conversations(chat):
        mine, _ = whose(client, runtimes[:3], body)
        answer = {"role": "assistant", "content": "Red and blue"}
        turns = [body["messages"][0], answer, {"role": "user", "content": "More"}]
        assert whose(client, runtimes[:3], body | {"messages": turns, "temperature": 0})[0] is mine
        homes[mine.url] += 1
    assert len(homes) == 3


# With and without speculation


@pytest.fixture
def both(start, runtimes):
    """Two replicas that speculate, one that does not, and no share taken for measuring."""
    return start(eagle(*runtimes[:2]), plain(runtimes[2]), policy={"baseline_share": 0})


@pytest.mark.parametrize(
    ("mode", "pool_name", "kind", "reason"),
    [
        (None, "eagle", "speculative", "default"),
        ("auto", "eagle", "speculative", "default"),
        ("on", "eagle", "speculative", "asked_on"),
        ("off", "plain", "baseline", "asked_off"),
    ],
)
def test_the_header_says_whether_to_speculate(both, chat, runtimes, mode, pool_name, kind, reason):
    grew = counter(both)
    assert served_by(both, chat, mode) == f"{pool_name}; reason={reason}"
    assert grew("aerie_policy_decisions_total", kind=kind, reason=reason) == 1
    assert total(both, "aerie_policy_decisions_total") == 1
    assert len(runtimes[2].generated) == (kind == "baseline")


def test_any_other_value_of_the_header_is_a_400(both, chat, runtimes):
    for value in ("ON", "yes", "", "on, off"):
        response = both.post(CHAT, json=chat, headers={"x-aerie-speculation": value})
        assert refusal(response) == (400, "invalid_value")
        assert response.json()["error"]["param"] == "x-aerie-speculation"
    assert not any(runtime.generated for runtime in runtimes)


def test_off_is_refused_where_everything_speculates(start, runtimes, chat):
    client = start(eagle(runtimes[0]))
    response = client.post(CHAT, json=chat, headers={"x-aerie-speculation": "off"})
    assert refusal(response) == (400, "no_baseline_pool")
    assert response.json()["error"]["param"] == "x-aerie-speculation"
    assert total(client, "aerie_policy_decisions_total") == 0
    assert served_by(client, chat, "on") == "eagle; reason=only_pool"


def test_without_speculation_until_it_is_back_except_for_who_asked_for_none(both, chat, runtimes):
    for runtime in runtimes[:2]:
        runtime.ready_status = 503
    until(lambda: total(both, "aerie_upstream_up") == 1)
    assert both.get("/readyz").is_success
    for mode in ("auto", "on", None):
        assert served_by(both, chat, mode) == "plain; reason=failover"
    assert served_by(both, chat, "off") == "plain; reason=asked_off"
    for runtime in runtimes[:2]:
        runtime.ready_status = 200
    until(lambda: total(both, "aerie_upstream_up") == 3)
    assert served_by(both, chat) == "eagle; reason=default"


def test_who_asked_for_no_speculation_gets_none_even_if_that_is_a_503(both, chat, runtimes):
    runtimes[2].ready_status = 503
    until(lambda: total(both, "aerie_upstream_up") == 2)
    response = both.post(CHAT, json=chat, headers={"x-aerie-speculation": "off"})
    assert refusal(response) == (503, "upstream_unavailable")
    assert served_by(both, chat) == "eagle; reason=default"
    runtimes[2].ready_status, runtimes[2].script = 200, DYING
    until(lambda: total(both, "aerie_upstream_up") == 3)
    response = both.post(CHAT, json=chat, headers={"x-aerie-speculation": "off"})
    assert refusal(response) == (503, "upstream_unavailable")


def test_a_pool_whose_replicas_all_fail_on_a_request_hands_it_to_the_other(both, chat, runtimes):
    for runtime in runtimes[:2]:
        runtime.script = DYING
    grew = counter(both)
    assert served_by(both, chat) == "plain; reason=failover"
    assert grew("aerie_upstream_retries_total", pool="eagle") == 1
    assert grew("aerie_policy_decisions_total", kind="baseline", reason="failover") == 1


@pytest.mark.parametrize(
    "fields", [{"logprobs": True}, {"response_format": {"type": "json_object"}}, {"regex": "a+"}], ids=str
)
def test_what_an_old_runtime_crashes_on_goes_to_the_baseline_or_is_refused_with_the_version(
    start, runtimes, chat, fields
):
    runtimes[0].server_info["version"] = "0.5.9"
    param = "logprobs" if "logprobs" in fields else "response_format"
    with_baseline = start(eagle(runtimes[0]), plain(runtimes[1]), policy={"baseline_share": 0})
    assert served_by(with_baseline, chat | fields) == "plain; reason=capability"
    without = start(eagle(runtimes[0]))
    response = without.post(CHAT, json=chat | fields)
    assert (*refusal(response), response.json()["error"]["param"]) == (400, "unsupported_feature", param)
    assert "from SGLang 0.5.23 on" in response.json()["error"]["message"]
    assert runtimes[0].generated == []


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_speculation_cannot_serve_goes_to_the_baseline_whatever_the_dice_say(start, runtimes, chat, share):
    speculative, baseline = runtimes[:2]
    for runtime in (speculative, baseline):
        runtime.server_info["device"] = "cuda"
    baseline.server_info["speculative_algorithm"] = None
    client = start(eagle(speculative), plain(baseline), policy={"baseline_share": share})
    body = chat | {"min_p": 0.1}
    assert served_by(client, body).startswith("plain; ")
    assert client.post(CHAT, json=body, headers={"x-aerie-speculation": "on"}).headers["x-aerie-pool"] == (
        "plain; reason=capability"
    )
    alone = start(eagle(speculative))
    assert refusal(alone.post(CHAT, json=body)) == (400, "unsupported_feature")


def test_readiness_needs_one_pool(both, runtimes):
    runtimes[2].ready_status = 503
    until(lambda: total(both, "aerie_upstream_up") == 2)
    ready = both.get("/readyz")
    assert ready.is_success
    assert set(ready.json()["not_ready"]) == {runtimes[2].url.removeprefix("http://")}
    for runtime in runtimes[:2]:
        runtime.ready_status = 503
    until(lambda: both.get("/readyz").status_code == 503)
    assert both.get("/v1/models").status_code == 503


def test_the_share_for_measuring_goes_to_the_baseline(start, runtimes, chat):
    client = start(eagle(runtimes[0]), plain(runtimes[1]), policy={"baseline_share": 1.0})
    assert served_by(client, chat) == "plain; reason=share"
    assert served_by(client, chat, "on") == "eagle; reason=asked_on"


# Canaries


@pytest.mark.parametrize(("old", "new", "serving"), [(1, 0, 0), (0, 1, 1)])
def test_a_pool_of_weight_0_serves_nothing(start, runtimes, chat, old, new, serving):
    client = start(pool("old", runtimes[0], weight=old), pool("new", runtimes[1], weight=new))
    for body in conversations(chat):
        assert client.post(CHAT, json=body).is_success
    assert [len(runtime.generated) for runtime in runtimes[:2]] == [24 * (each == serving) for each in (0, 1)]


def test_a_conversation_stays_with_the_version_it_began_with(start, runtimes, chat):
    client = start(pool("old", runtimes[0], weight=1), pool("new", runtimes[1], weight=1))
    homes = [served_by(client, body) for body in conversations(chat)]
    assert set(homes) == {"old; reason=only_pool", "new; reason=only_pool"}
    assert [served_by(client, body) for body in conversations(chat)] == homes


def test_a_canary_that_is_down_leaves_its_share_to_the_rest(start, runtimes, chat):
    client = start(pool("old", runtimes[0], weight=1), pool("new", runtimes[1], weight=1))
    runtimes[1].ready_status = 503
    until(lambda: total(client, "aerie_upstream_up") == 1)
    assert {served_by(client, body) for body in conversations(chat)} == {"old; reason=only_pool"}


# Models


def serve_model(monkeypatch, runtime, name):
    card = {"id": name, "object": "model", "created": 1, "owned_by": "sglang", "max_model_len": 4096}
    monkeypatch.setattr(runtime, "models", lambda: {"object": "list", "data": [card]})


def test_the_models_of_two_pools_are_listed_together_and_each_goes_to_its_own(start, runtimes, chat, monkeypatch):
    serve_model(monkeypatch, runtimes[1], "another")
    client = start(pool("one", runtimes[0]), pool("two", runtimes[1]))
    cards = {card["id"]: card["max_model_len"] for card in client.get("/v1/models").json()["data"]}
    assert cards == {MODEL: wire.CONTEXT, "another": 4096}
    assert client.get("/v1/models/another").json()["max_model_len"] == 4096
    for body in conversations(chat, 8):
        assert served_by(client, body).startswith("one")
        assert served_by(client, body | {"model": "another"}).startswith("two")
    assert refusal(client.get("/v1/models/nobody")) == (404, "model_not_found")
    response = client.post(CHAT, json=chat | {"model": "nobody"})
    assert refusal(response) == (404, "model_not_found")
    assert "another" in response.json()["error"]["message"]


def test_whether_speculation_pays_is_judged_model_by_model(start, runtimes, chat, monkeypatch):
    busy, idle, *plains = runtimes
    for runtime in (idle, plains[1]):
        serve_model(monkeypatch, runtime, "another")
    busy.load_is(99)
    pools = eagle(busy), plain(plains[0]), pool("other", idle), pool("other-plain", plains[1], kind="baseline")
    client = start(*pools, policy={"batch_size": {"off_above": 20, "on_below": 10}})
    until(lambda: served_by(client, chat) == "plain; reason=batch_size", "the look at the load")
    assert served_by(client, chat | {"model": "another"}) == "other; reason=default"
    pays = {dict(labels)["model"]: on for (name, labels), on in samples(client).items() if name.endswith("n_pays")}
    assert pays == {MODEL: 0, "another": 1}


def test_a_model_whose_only_pool_is_down_is_a_503_and_one_that_nobody_ever_served_a_404(
    start, runtimes, chat, monkeypatch
):
    serve_model(monkeypatch, runtimes[1], "another")
    client = start(pool("one", runtimes[0]), pool("two", runtimes[1]))
    runtimes[1].ready_status = 503
    until(lambda: "not_ready" in client.get("/readyz").json())
    for body in (chat, chat | {"model": "another"}, chat | {"model": "nobody"}):
        response = client.post(CHAT, json=body)
        expected = {"another": (503, "upstream_unavailable"), "nobody": (404, "model_not_found")}
        assert response.is_success if body is chat else refusal(response) == expected[body["model"]]
    assert refusal(client.get("/v1/models/another")) == (503, "upstream_unavailable")
    question = {"model": "another", "prompt": "hello"}
    assert refusal(client.post("/v1/tokenize", json=question)) == (503, "upstream_unavailable")


def test_a_model_is_a_503_as_long_as_a_pool_has_never_said_what_it_serves(runtimes, chat, tmp_path):
    runtimes[1].ready_status = 503
    file, asking_another = written(tmp_path, pool("one", runtimes[0]), pool("two", runtimes[1])), {"model": "another"}
    with gateway_with(config=file) as client:
        assert refusal(client.post(CHAT, json=chat | asking_another)) == (503, "upstream_unavailable")
        runtimes[1].ready_status = 200
        until(lambda: refusal(client.post(CHAT, json=chat | asking_another)) == (404, "model_not_found"))


def test_a_model_that_only_a_pool_of_weight_0_holds_is_not_served(start, runtimes, chat, monkeypatch):
    serve_model(monkeypatch, runtimes[1], "another")
    client = start(pool("one", runtimes[0]), pool("two", runtimes[1], weight=0))
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == [MODEL]
    assert refusal(client.get("/v1/models/another")) == (404, "model_not_found")
    assert refusal(client.post(CHAT, json=chat | {"model": "another"})) == (404, "model_not_found")
    runtimes[0].ready_status = 503
    until(lambda: client.get("/readyz").status_code == 503, "readiness off: nothing can be served")


# The queue


def waiting(client, many, pool_name="eagle"):
    until(lambda: samples(client)[key("aerie_queue_waiting_requests", {"pool": pool_name})] == many, f"{many} waiting")


def test_a_request_waits_for_a_place_and_is_served_when_one_comes_free(start, runtimes, chat, beside):
    client = start(eagle(runtimes[0], max_in_flight=1))
    grew = counter(client)
    with occupied(client, runtimes[0], chat):
        second = beside(client.post, CHAT, json=chat)
        waiting(client, 1)
        assert len(runtimes[0].generated) == 1
    assert second.result(20).is_success
    assert grew("aerie_queue_time_seconds_count", pool="eagle") == 2
    assert grew("aerie_queue_time_seconds_sum", pool="eagle") > 0


def test_each_replica_takes_as_many_as_it_may(start, runtimes, chat, beside):
    client = start(eagle(*runtimes[:2], max_in_flight=1))
    with occupied(client, *whose(client, runtimes[:2], chat)[:1], chat):
        assert client.post(CHAT, json=chat).is_success


def test_what_does_not_fit_into_the_queue_is_refused_with_the_time_to_come_back(start, runtimes, chat):
    client = start(eagle(runtimes[0], max_in_flight=1), queue={"limit": 0})
    grew = counter(client)
    with occupied(client, runtimes[0], chat):
        response = client.post(CHAT, json=chat)
        assert refusal(response) == (429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
    assert grew("aerie_refusals_total", code="queue_full") == 1
    until(lambda: grew("aerie_requests_total", route=CHAT, outcome="rejected", status="4xx") == 1)
    assert len(runtimes[0].generated) == 1


def test_who_waits_too_long_is_refused(start, runtimes, chat):
    client = start(eagle(runtimes[0], max_in_flight=1), queue={"wait_s": 0.1})
    grew = counter(client)
    with occupied(client, runtimes[0], chat):
        response = client.post(CHAT, json=chat | {"stream": True})
        assert refusal(response) == (429, "queue_timeout")
        assert int(response.headers["retry-after"]) >= 1
    assert grew("aerie_refusals_total", code="queue_timeout") == 1
    assert client.post(CHAT, json=chat).is_success


def test_a_client_that_leaves_the_queue_leaves_nothing_behind(start, runtimes, chat):
    client = start(eagle(runtimes[0], max_in_flight=1))
    grew = counter(client)
    with occupied(client, runtimes[0], chat):
        with connection(client, chat):
            waiting(client, 1)
        waiting(client, 0)
        until(lambda: grew("aerie_requests_total", route=CHAT, outcome="cancelled", status="4xx") == 1)
        assert grew("aerie_requests_in_flight") == 1
    assert client.post(CHAT, json=chat).is_success
    assert len(runtimes[0].generated) == 2
    assert runtimes[0].aborted == []
    assert total(client, "aerie_upstream_aborts_total") == 0


def test_a_client_that_leaves_the_second_queue_has_nothing_aborted_at_the_first_pool(start, runtimes, chat):
    client = start(eagle(runtimes[0]), plain(runtimes[1], max_in_flight=1), policy={"baseline_share": 0})
    runtimes[0].script = DYING
    grew = counter(client)
    with occupied(client, runtimes[1], chat, **{"x-aerie-speculation": "off"}):
        with connection(client, chat):
            waiting(client, 1, "plain")
        until(lambda: grew("aerie_requests_total", route=CHAT, outcome="cancelled", status="4xx") == 1)
    assert len(runtimes[0].generated) == 1
    assert runtimes[0].aborted == runtimes[1].aborted == []


def test_who_waits_when_the_drain_time_is_over_is_told_so(runtimes, chat, tmp_path, beside):
    config = written(tmp_path, eagle(runtimes[0], max_in_flight=1))
    runtimes[0].script = Script(steps=[RED, Hold()])
    with process(config=config, drain_timeout_s=0.3) as (running, client):
        with client.stream("POST", CHAT, json=chat | {"stream": True}) as first:
            chunks = first.iter_raw()
            assert next(chunks) == RED
            second = beside(client.post, CHAT, json=chat)
            waiting(client, 1)
            running.send_signal(signal.SIGTERM)
            response = second.result(20)
            assert refusal(response) == (503, "shutting_down")
            assert "retry-after" in response.headers
            assert b"shutting_down" in b"".join(chunks)
        assert running.wait(20) == 0
    assert runtimes[0].aborted == [runtimes[0].generated[0]["rid"]]


def test_who_waits_is_served_within_the_drain_time(runtimes, chat, tmp_path, beside):
    config = written(tmp_path, eagle(runtimes[0], max_in_flight=1))
    with process(config=config, drain_timeout_s=20) as (running, client):
        with occupied(client, runtimes[0], chat):
            second = beside(client.post, CHAT, json=chat)
            waiting(client, 1)
            running.send_signal(signal.SIGTERM)
            until(lambda: refused(client), "the closed listener")
        assert second.result(20).is_success
        assert running.wait(20) == 0


# All at once

MOODS = [Script()] * 4 + [
    DYING,
    Script(status=500, body=b"{}"),
    Script(before_head=Cut()),
    Script(before_head=Hold()),
    Script(steps=[RED, Cut()]),
    Script(steps=[RED, Hold()]),
]


class Moody(ScriptedUpstream):
    """Answers each request by chance."""

    async def generate(self, request, receive, send):
        self.script = random.choice(MOODS)
        await super().generate(request, receive, send)


def test_whatever_runtimes_and_clients_do_nothing_is_left_behind_and_every_place_comes_free(start, chat):
    moody = [Moody() for _ in range(3)]
    with ExitStack() as stack:
        for runtime in moody:
            runtime.url = stack.enter_context(served(runtime))
        client = start(
            eagle(*moody[:2], max_in_flight=2),
            plain(moody[2], max_in_flight=1),
            policy={"baseline_share": 0.3},
            queue={"limit": 8, "wait_s": 0.3},
            settings={"response_timeout_s": 0.3, "stall_timeout_s": 0.3},
        )

        def ask(number):
            """Some leave at once, some wait for the end."""
            body = asking(chat, f"Question {number}") | {"stream": number % 2 == 0}
            with connection(client, body) as opened:
                return opened.recv(12) if number % 3 else b""

        with ThreadPoolExecutor(16) as threads:
            answers = set(threads.map(ask, range(150)))
        assert answers <= {b""} | {b"HTTP/1.1 %d" % status for status in (200, 429, 502, 503, 504)}
        until(lambda: total(client, "aerie_requests_in_flight") == 0)
        for runtime in moody:
            runtime.generate = ScriptedUpstream.generate.__get__(runtime)
            runtime.script = Script()
        for mode in ("on", "off"):
            until(lambda: client.post(CHAT, json=chat, headers={"x-aerie-speculation": mode}).is_success)  # noqa: B023


# The file

URL = "http://127.0.0.1:9"
FILES = {
    "empty": ("", "the file is empty"),
    "no YAML": ("pools: [", "the file is not valid YAML: line 1"),
    "no pools": ("queue: {limit: 3}", "pools: is missing"),
    "an empty list": ("pools: []", "pools: must not be empty"),
    "an unknown field": (f'pools: [{{name: a, replicas: ["{URL}"], wait: 1}}]', "pools[0].wait: unknown field"),
    "an unknown kind": (f'pools: [{{name: a, kind: fast, replicas: ["{URL}"]}}]', "pools[0].kind: input should be"),
    "no URL": ('pools: [{name: a, replicas: ["sglang:30000"]}]', "pools[0].replicas: a replica is http://host:port"),
    "one name twice": (
        f'pools: [{{name: a, replicas: ["{URL}"]}}, {{name: a, replicas: ["{URL}"]}}]',
        "pools: two are named a",
    ),
    "no weight": (f'pools: [{{name: a, weight: 0, replicas: ["{URL}"]}}]', "pools: every weight is 0"),
    "a rule without its pool": (
        f'{{pools: [{{name: a, replicas: ["{URL}"]}}], policy: {{grammar: baseline}}}}',
        "policy.grammar: baseline, but no pool is of that kind",
    ),
    "thresholds that cross": (
        f'{{pools: [{{name: a, replicas: ["{URL}"]}}], policy: {{batch_size: {{off_above: 8, on_below: 9}}}}}}',
        "policy.batch_size: off_above: 8 must be greater than on_below=9",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_used_is_one_line_and_no_start(tmp_path, capsys, text, sentence):
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    assert aerie("gateway", "--config", str(path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aerie: {path}: {sentence}")


def test_a_file_that_is_not_there_and_a_second_word_on_runtimes_are_one_line_each(tmp_path, capsys):
    assert aerie("gateway", "--config", str(tmp_path / "nothing.yaml")) == 1
    assert aerie("gateway", "--config", "any.yaml", "--upstream", URL) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"aerie: {tmp_path / 'nothing.yaml'}: No such file or directory"
    assert "config and upstream both say where the runtimes are" in second


def test_acceptance_is_counted_by_the_tasks_that_the_operator_names_and_no_other(start, runtimes, chat):
    client = start(eagle(runtimes[0]), tasks=["code"])
    for headers in ({"x-aerie-task": "code"}, {"x-aerie-task": "code"}, {"x-aerie-task": "made-up"}, {}):
        client.post(CHAT, json=chat, headers=headers)
    found = samples(client)
    tasks = {dict(labels)["task"] for name, labels in found if name == "aerie_spec_verify_passes_total"}
    passes = {task: summed(found, "aerie_spec_verify_passes_total", {"task": task}) for task in tasks}
    assert passes == {"code": 12, "other": 12}
