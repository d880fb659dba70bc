"""Choosing: a conversation stays where it is, changes move as little as they can, and nobody is buried in requests."""

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway import balance
from service.gateway.balance import BOUND, HEAD_CHARS, pick, preference, prefix_key
from service.gateway.load import Load

KEYS = [number.to_bytes(4) for number in range(2000)]
SIGMAS = 6

names = st.lists(st.text(max_size=8), min_size=1, max_size=8, unique=True)
messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        st.text() | st.lists(st.builds(lambda text: {"type": "text", "text": text}, st.text()), max_size=3),
    ),
    max_size=4,
)
some_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), inner),
    max_leaves=8,
)
replicas = st.dictionaries(
    st.text(max_size=8),
    st.builds(Load, capacity=st.integers(1, 100), ours=st.integers(0, 100), others=st.integers(0, 100)),
    min_size=1,
    max_size=8,
)


@given(messages, messages)
def test_every_later_turn_of_a_conversation_has_the_same_key(before, after):
    first = [{"role": "system", "content": "Be brief."}, *before, {"role": "user", "content": "Name two colours."}]
    assert prefix_key({"messages": first}) == prefix_key({"messages": [*first, *after]}) is not None


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_text_and_its_parts_have_the_same_key(texts):
    parts = [{"type": "text", "text": text} for text in texts]
    for role in ("system", "user"):
        whole = prefix_key({"messages": [{"role": role, "content": "".join(texts)}]})
        assert prefix_key({"messages": [{"role": role, "content": parts}]}) == whole


@given(st.text(min_size=HEAD_CHARS, max_size=HEAD_CHARS), st.text())
def test_of_the_first_user_message_and_of_a_prompt_only_the_head_counts(head, tail):
    for document in (lambda text: {"messages": [{"role": "user", "content": text}]}, lambda text: {"prompt": text}):
        assert prefix_key(document(head)) == prefix_key(document(head + tail))


def test_other_instructions_or_another_first_question_make_another_key():
    def key(system, user):
        return prefix_key({"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]})

    assert len({key("ab", "c"), key("a", "bc"), key("a", "c"), key("ab", "d"), key("x" * 9999 + "y", "c")}) == 5


def test_a_list_of_prompts_has_its_first_ones_key():
    assert prefix_key({"prompt": ["one", "two"]}) == prefix_key({"prompt": "one"}) is not None


@pytest.mark.parametrize(
    "document",
    [
        *({}, {"prompt": ""}, {"prompt": []}, {"prompt": [1, 2]}, {"messages": []}, {"messages": None}),
        *({"messages": [{"role": role, "content": text}]} for role, text in [("assistant", "Hi"), ("user", "")]),
    ],
    ids=json.dumps,
)
def test_without_a_prompts_text_there_is_no_key(document):
    assert prefix_key(document) is None


@given(some_json, some_json)
def test_any_json_object_has_a_key_or_none(of_messages, of_prompt):
    for document in ({"messages": of_messages}, {"prompt": of_prompt}, {"messages": [of_messages, of_prompt]}):
        key = prefix_key(document)
        assert key is None or len(key) == 16


def test_keys_and_orders_are_the_same_in_every_process():
    """Pinned: a change would send every conversation elsewhere while gateways of two versions run."""
    assert prefix_key({"prompt": "The sky is"}).hex() == "4e5bfa7f2951c56ad6085b64890b414f"
    assert preference(b"conversation", dict.fromkeys("abcdef", 1.0)) == list("cbfaed")


@given(names, st.binary())
def test_a_replica_that_leaves_moves_only_its_own_keys(several, key):
    order = preference(key, dict.fromkeys(several, 1.0))
    for gone in several:
        rest = dict.fromkeys((name for name in several if name != gone), 1.0)
        assert preference(key, rest) == [name for name in order if name != gone]


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5))
def test_versions_get_conversations_in_proportion_to_their_weights(shares):
    weights = {f"v{number}": share for number, share in enumerate(shares)}
    counts = Counter(preference(key, weights)[0] for key in KEYS)
    for version, weight in weights.items():
        share = weight / sum(shares)
        deviation = math.sqrt(len(KEYS) * share * (1 - share))
        assert abs(counts[version] - len(KEYS) * share) <= SIGMAS * deviation + 1


@given(st.dictionaries(st.text(max_size=8), st.floats(0.01, 10), min_size=1), st.floats(1, 10), st.binary())
def test_a_version_whose_weight_grows_only_wins_conversations(weights, factor, sticky):
    before = preference(sticky, weights)[0]
    for grown in weights:
        after = preference(sticky, weights | {grown: weights[grown] * factor})[0]
        assert after in (before, grown)


def test_a_canary_of_a_few_percent_moves_a_few_percent():
    moved = sum(preference(key, {"old": 95, "new": 5})[0] != "old" for key in KEYS)
    assert moved == pytest.approx(0.05 * len(KEYS), rel=0.3)


def test_a_version_without_weight_gets_nothing():
    assert all(preference(key, {"old": 0, "new": 0.1}) == ["new"] for key in KEYS)
    assert preference(b"", {}) == preference(b"", {"old": 0}) == []


@given(replicas, st.binary())
def test_whatever_the_loads_a_conversation_finds_a_replica_within_the_bound(loads, key):
    chosen = loads[pick(loads, key, random.Random(0))]
    total, capacity = (sum(getattr(load, field) for load in loads.values()) for field in ("busy", "capacity"))
    assert chosen.busy + 1 < BOUND * (total + 1) * chosen.capacity / capacity + 1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=200), st.integers(1, 6))
def test_few_conversations_do_not_fill_one_replica_while_others_idle(requests, count):
    """Requests of four conversations come and go; whoever gets one is never over the bound by a whole request."""
    loads = {f"r{number}": Load(capacity=8) for number in range(count)}
    for conversation, ends in requests:
        name = pick(loads, bytes([conversation]), random.Random(0))
        loads[name].ours += 1
        assert loads[name].busy < BOUND * sum(load.busy for load in loads.values()) / count + 1
        if ends:
            loads[name].ours -= 1


def test_a_conversation_goes_where_it_was_and_when_that_is_too_busy_to_its_next():
    loads = {name: Load(capacity=8) for name in "abc"}
    first, second, _ = preference(b"key", dict.fromkeys(loads, 1.0))
    assert {pick(loads, b"key", random.Random(seed)) for seed in range(9)} == {first}
    loads[first].others = 3
    assert pick(loads, b"key", random.Random(0)) == second


def test_a_replica_of_twice_the_capacity_may_hold_twice_the_requests():
    loads = {"small": Load(capacity=8, ours=7), "large": Load(capacity=16, ours=14)}
    assert balance.first_within_bound(loads, ["large", "small"]) == "large"
    assert balance.first_within_bound(loads, ["small", "large"]) == "small"
    assert balance.less_busy_of_two(loads, random.Random(0)) == "large"


@given(replicas, st.integers(0, 2**32))
def test_without_a_key_the_busiest_of_several_is_never_chosen(loads, seed):
    chosen = pick(loads, None, random.Random(seed))
    fill = {name: (load.busy + 1) / load.capacity for name, load in loads.items()}
    assert len(loads) == 1 or fill[chosen] <= sorted(fill.values())[-2]


def test_without_keys_requests_spread_evenly():
    loads, rng = {str(number): Load(capacity=8) for number in range(10)}, random.Random(0)
    for _ in range(1000):
        loads[pick(loads, None, rng)].ours += 1
    assert all(95 <= load.ours <= 105 for load in loads.values())


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.sampled_from([-1, 1])))
def test_a_report_never_counts_our_own_requests_twice(ours, others, steps):
    load = Load(capacity=8, ours=ours)
    load.report(ours + others, 16)
    for step in steps:
        load.ours = max(0, load.ours + step)
    assert (load.busy, load.capacity) == (load.ours + others, 16)


def test_requests_the_runtime_does_not_know_yet_are_not_subtracted_from_others():
    load = Load(capacity=8, ours=5)
    load.report(3, 0)
    assert (load.busy, load.capacity) == (5, 8)
    load.report(9, 0)
    load.unreported()
    assert load.busy == 5
