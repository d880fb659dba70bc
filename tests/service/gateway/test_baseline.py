"""The calibrated baseline: read strictly, used only for what it was measured on, and told where it is not."""

import copy
import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.baseline import BaselineCurve
from service.gateway.reload import InvalidFiles
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import aerie, gateway_with, key, samples, summed, until
from tests.service.gateway.scripted_upstream import MODEL, Script
from tests.service.gateway.test_drain import process
from tests.service.gateway.test_fleet import CHAT, eagle, plain, written

CURVE = {
    "format": "aerie-baseline-curve/1",
    "created": "2026-11-22T20:00:00+00:00",
    "commit": "abc1234",
    "valid_for": {
        "model": MODEL,
        "sglang_version": "0.5.23",
        "device": "cpu",
        "hardware": "two cores",
        "flags": {"tp_size": 1, "dtype": "bfloat16"},
    },
    "baseline": [
        {"batch_size": 2, "tokens_per_s": 40.0, "low": 39.0, "high": 41.0, "step_s": 0.05},
        {"batch_size": 4, "tokens_per_s": 60.0, "low": 59.0, "high": 61.0, "step_s": 0.066},
    ],
    "speculative": {
        "algorithm": "EAGLE3",
        "tree": "3/1/4",
        "points": [{"batch_size": 2, "break_even_acceptance_length": 1.7}],
    },
}


def changed(*path, to):
    document = copy.deepcopy(CURVE)
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = to
    return document


@pytest.fixture
def file(tmp_path):
    def one(document=CURVE):
        path = tmp_path / "curve.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return one


@pytest.mark.parametrize(
    ("batch_size", "tokens_per_s"), [(1, 20), (2, 40), (3, 50), (4, 60), (5, None), (1000, None)], ids=str
)
def test_between_the_points_are_straight_lines_and_beyond_the_last_nothing_is_known(file, batch_size, tokens_per_s):
    assert BaselineCurve.read(file()).tokens_per_s(batch_size) == tokens_per_s


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=12), st.floats(0, 1))
def test_whatever_the_curve_it_stays_between_its_points(throughputs, at):
    points = [{"batch_size": 2**power, "tokens_per_s": value} for power, value in enumerate(throughputs)]
    curve = BaselineCurve.model_validate(CURVE | {"baseline": points})
    batch_size = max(1, int(at * points[-1]["batch_size"]))
    assert min(throughputs) * 0.999 <= curve.tokens_per_s(batch_size) <= max(throughputs) * 1.001


BROKEN = {
    "no JSON": ("{", "the file: Invalid JSON"),
    "another format": (changed("format", to="aerie-baseline-curve/2"), "format: Input should be"),
    "no points": (changed("baseline", to=[]), "baseline: "),
    "points that do not ascend": (changed("baseline", to=CURVE["baseline"][::-1]), "batch sizes must ascend"),
    "a throughput of nothing": (changed("baseline", 0, "tokens_per_s", to=0), "baseline.0.tokens_per_s: "),
    "a throughput that is no number": (changed("baseline", 0, "tokens_per_s", to="fast"), "baseline.0.tokens_per_s: "),
}


@pytest.mark.parametrize(("document", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_used_is_one_line_and_no_start(file, monkeypatch, capsys, document, sentence):
    path = file(document)
    monkeypatch.setenv("AERIE_CALIBRATION", str(path))
    assert aerie("gateway", "--upstream", "http://127.0.0.1:9") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aerie: {path}: ")
    assert sentence in line
    assert line.endswith("make it with aerie-bench calibrate")


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InvalidFiles, match="No such file"):
        BaselineCurve.read(tmp_path / "nothing.json")


def test_an_answer_is_counted_beside_what_the_baseline_would_have_done(upstream, chat, file):
    upstream.script = Script(steps=[*wire.stream_of("a")])
    with gateway_with(upstream=upstream.url, calibration=file()) as client:
        assert client.post(CHAT, json=chat | {"stream": True}).is_success
        until(lambda: summed(samples(client), "aerie_batch_completion_tokens_total", {"batch_size": "1"}) == 11)
        seen = samples(client)
        seconds = summed(seen, "aerie_batch_busy_seconds_total", {"pool": "default", "batch_size": "1"})
        assert summed(seen, "aerie_batch_baseline_tokens_total", {"pool": "default"}) == pytest.approx(20 * seconds)
        assert seen[key("aerie_calibration_valid", {"pool": "default"})] == 1
        assert seen[key("aerie_calibration_timestamp_seconds", {"pool": "default"})] == 1795377600


def test_break_even_is_told_of_the_tree_that_was_measured_only(upstream, file):
    tree = "/".join(
        str(upstream.server_info[f"speculative_{n}"]) for n in ("num_steps", "eagle_topk", "num_draft_tokens")
    )
    of = {"pool": "default", "batch_size": "2"}
    for measured, told in ((tree, 1.7), ("9/9/9", None)):
        with gateway_with(
            upstream=upstream.url, calibration=file(changed("speculative", "tree", to=measured))
        ) as client:
            assert samples(client).get(key("aerie_spec_break_even_acceptance_length", of)) == told


def test_a_replica_that_comes_back_with_another_tree_takes_its_break_even_with_it(upstream, file):
    of = key("aerie_spec_break_even_acceptance_length", {"pool": "default", "batch_size": "2"})
    with gateway_with(upstream=upstream.url, calibration=file(changed("speculative", "tree", to="3/4/8"))) as client:
        assert samples(client)[of] == 1.7
        upstream.ready_status = 503
        until(lambda: not client.get("/readyz").is_success)
        upstream.server_info["speculative_num_steps"] = 5
        upstream.ready_status = 200
        until(lambda: client.get("/readyz").is_success)
        assert of not in samples(client)


def test_hangup_reads_a_calibration_again_and_a_broken_one_changes_nothing(upstream, file):
    made = key("aerie_calibration_timestamp_seconds", {"pool": "default"})
    with process(upstream.url, calibration=file()) as (running, client):
        before = samples(client)[made]
        file("{")
        running.send_signal(signal.SIGHUP)
        file(changed("created", to="2026-11-23T20:00:00+00:00"))
        until(lambda: running.send_signal(signal.SIGHUP) or samples(client)[made] == before + 86400)


MISFITS = {
    "SGLang": (changed("valid_for", "sglang_version", to="0.5.9"), "SGLang 0.5.9, here 0.5.23"),
    "device": (changed("valid_for", "device", to="cuda"), "device cuda, here cpu"),
    "a flag that is not told": (changed("valid_for", "flags", "pp_size", to=1), "flag pp_size 1, here not told"),
    "a flag": (changed("valid_for", "flags", "tp_size", to=2), "flag tp_size 2, here 1"),
    "model": (changed("valid_for", "model", to="gpt"), f"model gpt, here {MODEL}"),
}


@pytest.mark.parametrize(("document", "words"), MISFITS.values(), ids=MISFITS)
def test_a_calibration_of_something_else_is_not_used_and_told(upstream, chat, file, caplog, document, words):
    with gateway_with(upstream=upstream.url, calibration=file(document)) as client:
        assert client.post(CHAT, json=chat).is_success
        until(lambda: summed(samples(client), "aerie_batch_busy_seconds_total", {}) > 0)
        assert summed(samples(client), "aerie_batch_baseline_tokens_total", {}) == 0
        assert samples(client)[key("aerie_calibration_valid", {"pool": "default"})] == 0
    reasons = {record.fields["reason"] for record in caplog.records if record.message == "calibration not used"}
    assert reasons == {f"The calibration is of {words}: calibrate again."}


def test_other_hardware_than_the_operator_names_is_not_used(tmp_path, runtimes, file):
    curve = str(file())
    pools = [eagle(runtimes[0], calibration=curve, hardware="four cores"), plain(runtimes[1])]
    with gateway_with(config=written(tmp_path, *pools)) as client:
        until(lambda: samples(client).get(key("aerie_calibration_valid", {"pool": "eagle"})) == 0)
        assert key("aerie_calibration_valid", {"pool": "plain"}) not in samples(client)


def test_pools_say_what_they_are(tmp_path, runtimes):
    with gateway_with(config=written(tmp_path, eagle(runtimes[0], version="v5"), plain(runtimes[1]))) as client:
        told = {labels for name, labels in samples(client) if name == "aerie_pool_info"}
    assert {tuple(dict(labels).values()) for labels in told} == {
        ("speculative", "eagle", "v5"),
        ("baseline", "plain", ""),
    }
