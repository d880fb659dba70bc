"""A gateway on a real port with its watchers: clients notice nothing, and the file switches them on and off."""

import json

import pytest
import yaml

from tests.service.gateway.conftest import counter, gateway_with, key, samples, until
from tests.service.gateway.scripted_upstream import Script, ScriptedUpstream, served
from tests.service.gateway.test_losslessness import CHAT, SPOKEN, Baseline, answered, said, streamed

MODEL_ASKED = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Name a colour."}]}
GREEDY = MODEL_ASKED | {"temperature": 0}
CHECKS = "aerie_losslessness_checks_total"


@pytest.fixture(scope="module")
def both():
    speculative, baseline = ScriptedUpstream(), Baseline()
    with served(speculative) as speculative.url, served(baseline) as baseline.url:
        yield speculative, baseline


@pytest.fixture
def start(both, tmp_path):
    """`start(**sections)`: the gateway's file, written anew by every call."""
    speculative, baseline = both
    for runtime in both:
        runtime.reset()
    speculative.script = Script(body=answered("Red and blue"), steps=[streamed("Red and", " blue")])
    baseline.said = said(*SPOKEN)
    baseline.server_info["speculative_algorithm"] = None
    pools = [
        {"name": "eagle", "kind": "speculative", "replicas": [speculative.url]},
        {"name": "plain", "kind": "baseline", "replicas": [baseline.url]},
    ]

    def write(**sections):
        new = tmp_path / "new.yaml"
        new.write_text(yaml.safe_dump({"pools": pools, "policy": {"baseline_share": 0.0}, **sections}))
        return new.replace(tmp_path / "gateway.yaml")

    return write


def checked(share=1.0):
    return {"losslessness": {"share": share, "per_minute": 1e6}}


def ready(client):
    until(lambda: sum(v for (name, _), v in samples(client).items() if name == "aerie_upstream_up") == 2, "both")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_checked_after_its_client_has_it(start, both, stream):
    with gateway_with(config=start(**checked())) as client:
        ready(client)
        growth = counter(client)
        answer = client.post(CHAT, json=GREEDY | {"stream": stream})
        assert answer.is_success
        assert "Red and" in answer.text
        until(lambda: growth(CHECKS, result="same") == 1, "the check")
        assert client.post(CHAT, json=GREEDY | {"stream": stream, "temperature": 0.5}).is_success
        assert growth("aerie_requests_total", route=CHAT, outcome="ok", status="2xx") == 2
        until(lambda: samples(client)[key("aerie_requests_in_flight", {})] == 0)
    assert len(both[1].generated) == 1


def test_a_corrupted_stream_is_a_mismatch(start, both):
    both[0].script = Script(steps=[streamed("Red and", " black")])
    with gateway_with(config=start(**checked())) as client:
        ready(client)
        growth = counter(client)
        assert client.post(CHAT, json=GREEDY | {"stream": True}).is_success
        until(lambda: growth(CHECKS, result="mismatch") == 1, "the check")


def test_an_answer_too_long_to_be_kept_is_delivered_and_not_checked(start, both):
    both[0].script = Script(steps=[streamed(*["x" * 4096] * 80)])
    with gateway_with(config=start(**checked())) as client:
        ready(client)
        assert len(client.post(CHAT, json=GREEDY | {"stream": True}).content) > 80 * 4096
        both[0].script = Script(body=answered("Red and blue"))
        growth = counter(client)
        assert client.post(CHAT, json=GREEDY).is_success
        until(lambda: growth(CHECKS, result="same") == 1, "the check of the second")
    assert len(both[1].generated) == 1


def test_prompts_are_written_when_the_gateway_ends_and_a_changed_file_switches_that_on(start, tmp_path):
    folder = tmp_path / "prompts"
    with gateway_with(config=start()) as client:
        ready(client)
        assert client.post(CHAT, json=MODEL_ASKED).is_success
        before = samples(client)[key("aerie_config_generation", {})]
        start(capture={"share": 1.0, "folder": str(folder), "answers": True})
        until(lambda: samples(client)[key("aerie_config_generation", {})] > before, "the new file")
        assert client.post(CHAT, json=MODEL_ASKED | {"stream": True}).is_success
    [path] = folder.iterdir()
    assert json.loads(path.read_bytes())["messages"] == [
        *MODEL_ASKED["messages"],
        {"role": "assistant", "content": "Red and blue"},
    ]


def test_a_file_whose_redaction_cannot_be_imported_keeps_the_old_one(start, tmp_path):
    with gateway_with(config=start(**checked())) as client:
        ready(client)
        start(capture={"share": 1.0, "folder": str(tmp_path / "prompts"), "redact": "missing:hide"})
        until(lambda: samples(client)[key("aerie_config_stale", {})] == 1, "the refusal")
        growth = counter(client)
        assert client.post(CHAT, json=GREEDY).is_success
        until(lambda: growth(CHECKS, result="same") == 1, "the check")
    assert not (tmp_path / "prompts").exists()
