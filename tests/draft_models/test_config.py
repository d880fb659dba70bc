"""Shapes and recipes: what is accepted, and how layers are counted."""

import pytest
from pydantic import ValidationError
from transformers import GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from draft_models.config import DraftConfig, TrainConfig, default_taps
from draft_models.errors import ConfigError


def test_taps_are_sglangs_layers_counted_as_hidden_states():
    """The starter draft's layers 2, 15, 27 are hidden_states[3, 16, 28]."""
    config = DraftConfig.from_target(LlamaConfig(num_hidden_layers=30), 100, (3, 16, 28))
    assert config.sglang_layer_ids == [2, 15, 27]


def test_default_taps_are_the_inputs_of_sglangs_default_layers():
    assert default_taps(32) == (2, 16, 29)
    with pytest.raises(ConfigError, match="name them"):
        default_taps(4)


@pytest.mark.parametrize("taps", [(), (0, 1), (2, 1), (1, 1), (1, 33)])
def test_taps_that_cannot_be_are_refused(taps):
    with pytest.raises(ConfigError, match="taps"):
        DraftConfig.from_target(LlamaConfig(num_hidden_layers=32), 100, taps)


def test_qwen_targets_have_the_heads_and_the_rope_they_say():
    target = Qwen3Config(hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128)
    config = DraftConfig.from_target(target, 100)
    assert (config.head_dim, config.num_key_value_heads) == (128, 8)
    assert config.rope_parameters["rope_theta"] == target.rope_parameters["rope_theta"]
    target = Qwen2Config(hidden_size=896, num_attention_heads=14, num_key_value_heads=2)
    assert DraftConfig.from_target(target, 100).head_dim == 64


def test_an_unsupported_target_is_one_clear_error():
    with pytest.raises(ConfigError, match="'gpt2' is not supported; supported: llama"):
        DraftConfig.from_target(GPT2Config(), 100)


def test_settings_are_frozen_and_strict():
    with pytest.raises(ValidationError):
        TrainConfig(learning_speed=1)
    with pytest.raises(ValidationError):
        TrainConfig().seed = 1
