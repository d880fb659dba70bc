"""Speculation's rules: what passes, what is refused, and that every refusal names a value that would pass."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.speculation import (
    Algorithm,
    SpeculativeConfig,
    acceptance_length,
    check_attention,
    max_tree_size,
    sglang_flags,
)


def config(**fields: object) -> SpeculativeConfig:
    base = {"algorithm": "EAGLE3", "num_steps": 3, "eagle_topk": 4, "num_draft_tokens": 8, "draft": "some/draft"}
    return SpeculativeConfig.model_validate({**base, **fields})


def test_plain_decoding_passes_no_speculative_flag() -> None:
    assert sglang_flags(SpeculativeConfig.none()) == []


@pytest.mark.parametrize("algorithm", [a for a in Algorithm if a is not Algorithm.NONE])
def test_all_three_tree_numbers_are_always_passed(algorithm: Algorithm) -> None:
    draft = None if algorithm is Algorithm.NGRAM else "some/draft"
    flags = sglang_flags(config(algorithm=algorithm, draft=draft))
    for name, value in (("num-steps", "3"), ("eagle-topk", "4"), ("num-draft-tokens", "8")):
        assert flags[flags.index(f"--speculative-{name}") + 1] == value


def test_ngram_passes_its_breadth_because_sglang_overwrites_topk() -> None:
    flags = sglang_flags(config(algorithm="NGRAM", draft=None))
    assert flags[flags.index("--speculative-ngram-max-bfs-breadth") + 1] == "4"


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"algorithm": "NONE"}, "num_steps", "leave num_steps out"),
        (
            {"algorithm": "NONE", "num_steps": None, "eagle_topk": None, "num_draft_tokens": None},
            "draft",
            "leave draft out",
        ),
        ({"draft": None}, "draft", "draft=draft_models/"),
        ({"algorithm": "EAGLE", "draft": None}, "draft", "draft="),
        ({"algorithm": "NEXTN", "draft": None}, "draft", "the target"),
        ({"algorithm": "STANDALONE", "draft": None}, "draft", "draft="),
        ({"algorithm": "NGRAM"}, "draft", "leave draft out"),
        ({"num_steps": None}, "num_steps", "num_steps=3"),
        ({"eagle_topk": None}, "eagle_topk", "eagle_topk=1"),
        ({"num_draft_tokens": None}, "num_draft_tokens", "num_draft_tokens=4"),
        ({"eagle_topk": 1}, "num_draft_tokens", "num_draft_tokens=4"),
        ({"num_steps": 8, "num_draft_tokens": 6}, "num_draft_tokens", "num_draft_tokens=9"),
        ({"num_steps": 2, "eagle_topk": 2, "num_draft_tokens": 9}, "num_draft_tokens", "num_draft_tokens=7"),
    ],
)
def test_a_broken_rule_names_the_field_and_a_value_that_passes(
    fields: dict[str, object], field: str, remedy: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        config(**fields)
    message = refusal.value.errors()[0]["msg"]
    assert message.startswith(f"Value error, {field}:")
    assert remedy in message


CHAIN: dict[str, object] = {"num_steps": 3, "eagle_topk": 1, "num_draft_tokens": 4}


def test_a_chains_length_may_follow_the_batch_size() -> None:
    assert config(**CHAIN, adaptive={1: [3], 8: [0, 1]}).adaptive == {1: (3,), 8: (0, 1)}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"adaptive": {1: [3]}}, "adaptive: SGLang varies the length of EAGLE and EAGLE3 chains only"),
        ({**CHAIN, "algorithm": "STANDALONE", "adaptive": {1: [3]}}, "EAGLE and EAGLE3 chains only"),
        ({**CHAIN, "adaptive": {}}, "a row for batch size 1"),
        ({**CHAIN, "adaptive": {2: [3]}}, "a row for batch size 1"),
        ({**CHAIN, "adaptive": {1: [2], 4: [1]}}, "num_steps=3, which SGLang starts with"),
        ({**CHAIN, "adaptive": {0: [3]}}, "adaptive: 0: [3] is no row"),
        ({**CHAIN, "adaptive": {1: []}}, "adaptive: 1: [] is no row"),
        ({**CHAIN, "adaptive": {1: [3, 1]}}, "adaptive: 1: [3, 1] is no row"),
        ({**CHAIN, "adaptive": {1: [-1, 3]}}, "adaptive: 1: [-1, 3] is no row"),
        ({**CHAIN, "adaptive": {1: [3, 65]}}, "adaptive: 1: [3, 65] is no row"),
    ],
)
def test_lengths_that_sglang_would_refuse_or_ignore_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        config(**fields)
    assert sentence in refusal.value.errors()[0]["msg"]


def test_a_trees_size_may_follow_the_drafts_confidence() -> None:
    tree = config(draft_p_min={1: 0.05, 8: 0.25})
    assert tree.draft_p_min == {1: 0.05, 8: 0.25}
    assert tree.tree == "3/4/8, adaptive"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"algorithm": "EAGLE", "draft_p_min": {1: 0.1}}, "draft_p_min: EAGLE3 trees only"),
        ({**CHAIN, "adaptive": {1: [3]}, "draft_p_min": {1: 0.1}}, "not beside adaptive"),
        ({"draft_p_min": {}}, "a row for batch size 1"),
        ({"draft_p_min": {4: 0.1}}, "a row for batch size 1"),
        ({"draft_p_min": {0: 0.1}}, "draft_p_min: 0: 0.1 is no row"),
        ({"draft_p_min": {1: 1.0}}, "draft_p_min: 1: 1.0 is no row"),
        ({"draft_p_min": {1: -0.1}}, "draft_p_min: 1: -0.1 is no row"),
        ({"draft_p_min": {1: float("nan")}}, "draft_p_min: 1: nan is no row"),
    ],
)
def test_probabilities_that_are_none_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        config(**fields)
    assert sentence in refusal.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "fields", [{"num_steps": 0}, {"eagle_topk": 0}, {"num_draft_tokens": 1}, {"algorithm": "MEDUSA"}, {"depth": 3}]
)
def test_values_out_of_range_and_unknown_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**fields)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(2, 64))
def test_a_tree_passes_or_its_refusal_proposes_one_that_does(
    num_steps: int, eagle_topk: int, num_draft_tokens: int
) -> None:
    try:
        config(num_steps=num_steps, eagle_topk=eagle_topk, num_draft_tokens=num_draft_tokens)
    except ValidationError as refusal:
        proposed = re.search(r"use num_draft_tokens=(\d+)", str(refusal))
        assert proposed is not None
        config(num_steps=num_steps, eagle_topk=eagle_topk, num_draft_tokens=int(proposed[1]))


def test_the_largest_tree_counts_the_root_the_first_step_and_topk_squared_after_it() -> None:
    assert max_tree_size(1, 4) == 5
    assert max_tree_size(3, 1) == 4
    assert max_tree_size(3, 4) == 1 + 4 + 2 * 16


@pytest.mark.parametrize(
    ("fields", "backend", "page_size", "refused"),
    [
        ({}, "trtllm_mha", 1, "eagle_topk"),
        ({}, "intel_amx", 16, "page_size"),
        ({}, None, 16, "page_size"),
        ({}, "fa3", 16, None),
        ({}, "intel_amx", 1, None),
        ({"eagle_topk": 1, "num_draft_tokens": 4}, "trtllm_mha", 16, None),
        ({"algorithm": "NGRAM", "draft": None}, "fa3", 16, "page_size"),
        ({"algorithm": "NGRAM", "draft": None}, "flashinfer", 16, None),
    ],
)
def test_trees_need_an_attention_backend_that_can_verify_them(
    fields: dict[str, object], backend: str | None, page_size: int, refused: str | None
) -> None:
    if refused is None:
        check_attention(config(**fields), attention_backend=backend, page_size=page_size)
        return
    with pytest.raises(ValueError, match=f"^{refused}:"):
        check_attention(config(**fields), attention_backend=backend, page_size=page_size)


def test_acceptance_length_is_one_when_no_draft_is_accepted_and_counts_the_bonus_token() -> None:
    assert acceptance_length(0, 5) == 1.0
    assert acceptance_length(10, 5) == 3.0


@pytest.mark.parametrize(("correct", "passes"), [(0, 0), (3, 0), (-1, 2)])
def test_acceptance_length_refuses_counts_that_mean_nothing(correct: int, passes: int) -> None:
    with pytest.raises(ValueError, match=r"acceptance length|negative"):
        acceptance_length(correct, passes)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        config().num_steps = 5  # type: ignore[misc]
