"""Which runtimes may be measured, and compared."""

import pytest

from loadtest.errors import EndpointError, UnfitPair
from loadtest.runtime import Runtime, choose_model, require_model, require_pair
from tests.loadtest.scripted_runtime import FLAGS, TREE

PLAIN = {"version": "0.5.23", "device": "cpu", "speculative_algorithm": None, **FLAGS}
EAGLE = PLAIN | {"speculative_algorithm": "EAGLE3", **TREE}
MODELS = {"data": [{"id": "one"}, {"id": "two"}]}


def parse(server, models=MODELS, url="http://h:1"):
    return Runtime.parse(url, server, models)


def chosen(runtime, wanted):
    return choose_model(runtime.url, runtime.models, wanted)


def test_a_runtime_is_what_it_says():
    runtime = parse(
        EAGLE | {"max_running_requests": None, "internal_states": [{"effective_max_running_requests_per_dp": 8}]}
    )
    assert (runtime.algorithm, runtime.tree, runtime.models, runtime.max_running) == (
        "EAGLE3",
        "3/4/8",
        ("one", "two"),
        8,
    )
    assert parse(EAGLE | {"speculative_adaptive": True}).tree == "3/4/8, adaptive"
    assert parse(EAGLE | {"internal_states": [{"speculative_draft_p_min": {"1": 0.1}}]}).tree == "3/4/8, adaptive"
    assert parse(PLAIN).algorithm is None
    assert parse(PLAIN | {"speculative_algorithm": "NONE"}).algorithm is None
    assert parse(PLAIN).max_running is None


@pytest.mark.parametrize("name", ["version", "device", *FLAGS])
def test_what_a_curve_must_say_must_be_told(name):
    told = {key: value for key, value in PLAIN.items() if key != name}
    with pytest.raises(EndpointError, match=f"{name} is missing"):
        parse(told)


@pytest.mark.parametrize(
    ("server", "models"),
    [
        (PLAIN | {"tp_size": "two"}, MODELS),
        (PLAIN, {"data": 3}),
        (PLAIN, {"data": [3]}),
        (PLAIN | {"internal_states": [3]}, MODELS),
        (PLAIN | {"version": 5}, MODELS),
    ],
)
def test_other_words_are_refused(server, models):
    with pytest.raises(EndpointError, match="in unknown words"):
        parse(server, models)


def test_the_model_is_the_first_or_the_wanted_one():
    assert chosen(parse(PLAIN), None) == "one"
    assert chosen(parse(PLAIN), "two") == "two"
    with pytest.raises(EndpointError, match="serves one, two, not three"):
        chosen(parse(PLAIN), "three")
    with pytest.raises(EndpointError, match="serves no model"):
        chosen(parse(PLAIN, {"data": []}), None)
    with pytest.raises(EndpointError, match="serves nothing, not one"):
        require_model("http://h", (), "one")


def test_a_runtime_and_its_baseline_are_a_pair():
    require_pair(parse(PLAIN), parse(EAGLE), [1, 8])
    require_pair(parse(PLAIN), None, [1, 8])


@pytest.mark.parametrize(
    ("baseline", "speculative", "words"),
    [
        (EAGLE, EAGLE, r"speculates \(EAGLE3\): a baseline is started without"),
        (PLAIN, PLAIN, "does not speculate"),
        (PLAIN, EAGLE | {"version": "0.5.24"}, "sglang_version is 0.5.23 and 0.5.24"),
        (PLAIN, EAGLE | {"device": "cuda"}, "device is cpu and cuda"),
        (PLAIN, EAGLE | {"dtype": "float32"}, "dtype is bfloat16 and float32"),
        (PLAIN | {"max_running_requests": 4}, EAGLE, "runs 4 requests at a time, so that a batch of 8 would wait"),
        (PLAIN, EAGLE | {"max_running_requests": 4}, "runs 4 requests at a time, so that a batch of 8 would wait"),
    ],
)
def test_what_differs_in_more_than_speculation_is_refused(baseline, speculative, words):
    with pytest.raises(UnfitPair, match=words):
        require_pair(parse(baseline), parse(speculative), [1, 8])
