"""The page at /: it says what is known and admits what is not, and nothing it shows can become markup or a secret."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.errors import InternalError, InvalidRequest, Overloaded, RateLimited
from service.gateway.keys import mint
from service.gateway.markup import html
from service.gateway.policy import Reason
from service.gateway.record import RequestRecord
from service.gateway.status_errors import KEPT, RecentErrors
from service.gateway.status_history import Totals
from service.gateway.status_view import Facts, sections
from service.gateway.status_words import REASONS
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import gateway_before, gateway_with, until
from tests.service.gateway.scripted_upstream import Cut, Script
from tests.service.gateway.test_baseline import CURVE
from tests.service.gateway.test_fleet import eagle, plain, written
from tests.service.gateway.test_workers import ask, two_workers

CHAT = "/v1/chat/completions"
MARKUP = "<img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """A document's elements with their attributes, and its text."""

    def __init__(self, document):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self):
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}


def shown(client, path="/"):
    answer = client.get(path)
    assert answer.status_code == 200
    return Seen(answer.text)


@pytest.fixture
def fresh(upstream):
    """A gateway that nobody has asked anything."""
    with gateway_before(upstream.url) as client:
        yield client


def after(client, condition):
    """The page's text, once this holds: it looks at the numbers at most once a second."""
    return until(lambda: (text := shown(client, "/status/fragment").text) and condition(text) and text)


@pytest.mark.parametrize("path", ["/", "/status/fragment", "/status/status.css", "/status/status.js"])
def test_a_strict_policy_goes_with_everything(gateway, path):
    headers = gateway.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_obeys_its_policy_and_all_it_loads_is_the_gateways(gateway, chat):
    gateway.post(CHAT, json=chat)
    answer = gateway.get("/")
    page = Seen(answer.text)
    assert not re.search(r"<script>|<style|javascript:", answer.text)
    for tag, attributes in page.elements:
        assert tag != "script" or attributes["src"]
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
    links = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert {"status/status.css", "status/status.js", "status/status.svg"} <= set(links)
    for link in links:
        assert not re.match(r"/|\w+:", link), "relative, so that a proxy may put the gateway under a prefix"
        assert link.startswith("#") or gateway.get(f"/{link}").is_success, link


def test_the_fragment_is_what_changes_of_the_page(gateway):
    page, fragment = shown(gateway), shown(gateway, "/status/fragment")
    assert {"state", "figures", "pools", "decisions", "errors", "about"} <= fragment.ids <= page.ids


def test_every_field_has_a_label_and_every_picture_words(gateway, chat):
    gateway.post(CHAT, json=chat)
    after(gateway, lambda text: "of a replica" in text)
    page = gateway.get("/").text
    for field in re.findall(r"<(?:input|select|textarea)\b", page):
        assert re.search(rf"<label[^>]*>[^<]+{field}", page), field
    assert all(attributes.get("aria-label") for tag, attributes in Seen(page).elements if tag == "svg")
    assert 'lang="en"' in page


def test_what_it_does_not_have_is_an_error_like_any(gateway):
    for name in ("nothing.js", "status.html", "..%2fstatus_page.py"):
        answer = gateway.get(f"/status/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/status/fragment", "/status/status.js"])
def test_it_can_be_turned_off(upstream, path):
    with gateway_before(upstream.url, status_page=False) as client:
        assert client.get(path).status_code == 404


def test_what_nobody_has_measured_is_said_in_words_and_never_as_a_number(fresh):
    page = fresh.get("/").text
    text = Seen(page).text
    for words in (
        "no calibration: run aerie-bench calibrate",
        "no verify pass counted yet",
        "no token generated yet",
        "Nothing measured yet",
        "No request has been sent to a pool yet.",
        "None since the start.",
    ):
        assert words in text, words
    assert "<svg" not in page
    assert not re.search(r"\b0\.0", text)


def test_what_requests_counted_is_there_a_second_later(fresh, chat):
    for _ in range(3):
        fresh.post(CHAT, json=chat)
    text = after(fresh, lambda text: "33 tokens since the start" in text)
    assert "Acceptance length τ 1.67 since the start" in text
    assert "only_pool speculative: there is only one kind of pool 3" in text
    assert "Requests finished 3 none failed" in text
    page = fresh.get("/").text
    charts = [attributes["aria-label"] for tag, attributes in Seen(page).elements if tag == "svg"]
    assert [label.partition(",")[0] for label in charts] == [
        "Tokens per second of a replica",
        "Verify passes that accepted the draft at each position",
    ]
    assert "1: 50%, 2: 17%" in charts[1]
    assert "Not known: no calibration: run aerie-bench calibrate, or add a baseline pool." in text


def test_with_a_calibration_that_fits_there_is_a_speedup(upstream, chat, tmp_path):
    fitting = CURVE | {"speculative": None, "valid_for": CURVE["valid_for"] | {"flags": {}}}
    file = tmp_path / "curve.json"
    file.write_text(json.dumps(fitting))
    with gateway_before(upstream.url, calibration=file) as client:
        assert "valid, measured 2026-11-22 20:00:00 UTC" in shown(client).text
        client.post(CHAT, json=chat)
        speedup = r"Speedup [0-9.,]+. (slower than the baseline; )?since the start"
        after(client, lambda text: re.search(speedup, text))
        assert 'aria-label="Speedup by batch size. 1: ' in client.get("/").text


def test_with_one_that_does_not_it_says_why(upstream, tmp_path):
    file = tmp_path / "curve.json"
    file.write_text(json.dumps(CURVE | {"valid_for": CURVE["valid_for"] | {"device": "cuda"}}))
    with gateway_before(upstream.url, calibration=file) as client:
        text = shown(client).text
        assert "the calibration does not fit the runtimes" in text
        assert "device cuda, here cpu" in text


def test_a_baseline_pool_shows_its_speed_and_gives_the_other_a_live_speedup(runtimes, chat, tmp_path):
    config = written(tmp_path, eagle(runtimes[0], version="draft-7"), plain(runtimes[1]))
    with gateway_with(config=config) as client:
        for mode in ("on", "off"):
            client.post(CHAT, json=chat, headers={"x-aerie-speculation": mode})
        text = after(client, lambda text: "Requests finished 2" in text)
        assert "eagle speculative draft-7 takes requests" in text
        assert "plain baseline takes requests" in text
        assert "baseline, as the baseline pool does" in text
        assert 'data-pool="plain" data-kind="baseline"' in client.get("/").text


def test_a_runtime_that_is_down_is_told_with_its_reason_and_no_more_addresses_than_readyz(fresh, upstream):
    upstream.ready_status = 503
    until(lambda: fresh.get("/readyz").status_code == 503)
    told = fresh.get("/readyz").json()
    text = after(fresh, lambda text: "Not ready" in text)
    assert told["reason"] in text
    assert set(re.findall(r"[\w.]+:\d{4,5}\b", text)) == set(told["not_ready"])
    assert "None since the start." in text, "who probes /readyz would push all errors out"
    upstream.ready_status = 200
    text = after(fresh, lambda text: "Ready Its replica takes requests." in text)
    assert not re.findall(r"[\w.]+:\d{4,5}\b", text)


def test_nothing_that_a_runtime_says_becomes_markup(upstream):
    upstream.server_info |= {"version": MARKUP, "device": '"><script>alert(1)</script>'}
    with gateway_before(upstream.url) as client:
        page = client.get("/")
        assert f"SGLang {MARKUP} on " in Seen(page.text).text
        assert not [attributes for tag, attributes in Seen(page.text).elements if "onerror" in attributes]
        assert page.text.count("<script") == 1


@given(st.text(), st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_text_stays_text(child, attribute):
    element = html("p", child, title=attribute)
    assert re.fullmatch(r'<p title="[^"<>]*">[^<>]*</p>', element, re.DOTALL)
    assert Seen(element).elements == [("p", {"title": attribute})]


def test_errors_are_listed_the_newest_first_with_what_finds_them_in_the_log(fresh, upstream, chat):
    upstream.script = Script(status=500, body=b"{}")
    assert fresh.post(CHAT, json=chat, headers={"x-request-id": "req-1"}).status_code == 502
    upstream.script = Script(steps=[wire.chunk("a", "Red"), Cut()])
    fresh.post(CHAT, json=chat | {"stream": True}, headers={"x-request-id": "req-2"})
    text = after(fresh, lambda text: "req-2" in text)
    assert re.search(rf"UTC {CHAT} 502 upstream_protocol_error req-2 .* {CHAT} 502 upstream_failed req-1", text)


def test_no_prompt_and_no_key_ever_gets_there(upstream, chat, tmp_path):
    secret, entry = mint("alice")
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry}")
    upstream.script = Script(status=500, body=json.dumps(wire.error("the secret prompt", 500)).encode())
    body = chat | {"messages": [{"role": "user", "content": "the secret prompt"}]}
    with gateway_before(upstream.url, keys=keys) as client:
        for path in (CHAT, f"/v1/models/{secret}?key={secret}"):
            client.post(path, json=body, headers={"authorization": f"Bearer {secret}"})
            client.post(path, json=body, headers={"authorization": "Bearer wrong-key"})
        text = after(client, lambda text: "upstream_failed" in text)
        for page in (text, client.get("/").text):
            for unseen in (secret, "wrong-key", "the secret prompt"):
                assert unseen not in page


@pytest.mark.parametrize("keys", [True, False])
def test_a_key_is_asked_for_where_there_are_keys(upstream, tmp_path, keys):
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n{mint('alice')[1]}")
    with gateway_before(upstream.url, **({"keys": file} if keys else {})) as client:
        assert ("<label hidden>API key" in client.get("/").text) == (not keys)


def failed(error, request_id="id"):
    record = RequestRecord(request_id, "POST", "/a/path?with=secrets", status=error.status if error else 200)
    record.route, record.failure = CHAT, error
    return record


def test_what_clients_do_wrong_is_no_error_and_neither_is_a_keys_limit():
    errors = RecentErrors(clock=lambda: 0.0)
    for error in (None, InvalidRequest("no"), RateLimited("slower"), Overloaded("full"), InternalError("a bug")):
        errors.note(failed(error))
    assert [(kept.status, kept.code, kept.route) for kept in errors] == [
        (500, "internal_error", CHAT),
        (429, "queue_full", CHAT),
    ]


@given(st.integers(0, 3 * KEPT))
def test_errors_are_bounded_and_the_oldest_go(many):
    errors = RecentErrors(clock=lambda: 0.0)
    for number in range(many):
        errors.note(failed(InternalError("a bug"), str(number)))
    assert [kept.request_id for kept in errors] == [str(number) for number in range(many)][::-1][:KEPT]


def test_several_workers_show_the_sum(upstream, chat):
    with two_workers(upstream.url) as (_, client):
        ask(client, chat, times=12)
        for _ in range(6):  # whoever answers
            text = after(client, lambda text: f"{12 * 11} tokens since the start" in text)
            assert "Ready" in text
        assert "Of the worker that answered; there are 2." in text


def test_a_gateway_that_drains_says_so():
    facts = Facts(draining=True, reason=None, pools=[], errors=[], workers=1, uptime_s=1.0)
    assert "Draining" in Seen(sections(facts, Totals([]), None)["state"]).text


def test_every_reason_of_the_policy_has_words():
    assert set(REASONS) == set(Reason)
