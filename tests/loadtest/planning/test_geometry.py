"""Models are counted as the hub counts them."""

import json
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import PlanError
from loadtest.planning import geometry

LLAMA, MOE = geometry.read("llama-3.1-8b"), geometry.read("qwen3-30b-a3b")


@pytest.mark.parametrize("name", geometry.presets())
def test_a_preset_has_the_public_number_of_parameters(name):
    assert geometry.read(name).parameters == pytest.approx(geometry.public_parameter_counts()[name], rel=1e-3)


def test_the_draft_has_the_tensors_that_sglang_lists():
    """docs/sglang.md: q, k and v read twice the hidden size; the head has the draft vocabulary's rows."""
    tensors = [4096 * 8192, 1024 * 8192, 1024 * 8192, 4096 * 4096, 3 * 4096 * 14336, 32000 * 4096]
    assert LLAMA.eagle3_draft().active == sum(tensors)


def test_a_token_of_cache_is_keys_and_values_of_every_layer():
    assert LLAMA.kv_bytes == 2 * 32 * 8 * 128 * 2


def test_a_token_meets_a_few_experts_and_a_large_batch_reads_all():
    assert MOE.active / 1e9 == pytest.approx(3.0, abs=0.1)
    all_but_the_embedding = 2 * (MOE.parameters - MOE.head)
    assert MOE.bytes_read(1) < all_but_the_embedding / 8
    assert isclose(MOE.bytes_read(10_000), all_but_the_embedding)


@given(st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_tokens_never_read_less(few, more):
    assert MOE.bytes_read(min(few, more)) <= MOE.bytes_read(max(few, more))


def test_a_directory_and_its_config_are_the_same_model(tmp_path):
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1000, "torch_dtype": "bfloat16"}))
    assert geometry.read(str(tmp_path)) == geometry.read(str(tmp_path / "config.json"))
    assert geometry.read(str(tmp_path)).kv_heads == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a config.json"),
        ('{"hidden_size": 64}', "num_hidden_layers: Field required"),
        ('{"kv_lora_rank": 512}', "another cache"),
        ('{"text_config": {"kv_lora_rank": 512}}', "another cache"),
        ('{"text_config": "llama"}', "text_config"),
    ],
)
def test_a_config_that_cannot_be_counted_is_refused_in_a_line(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(PlanError, match=said):
        geometry.read(str(path))


def test_a_draft_without_its_vocabulary_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 1000}')
    with pytest.raises(PlanError, match="no draft_vocab_size"):
        geometry.draft_vocab(str(tmp_path))
