"""SGLang's format: written, read back, and strictly compared."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from draft_models.checkpoint import load_draft, save_draft, write_whole
from draft_models.errors import CheckpointError
from tests.draft_models import tiny

SHIPPED = Path(__file__).parents[2] / "draft_models" / "smollm2-135m-instruct-eagle3"


@pytest.fixture
def saved(tmp_path):
    draft = tiny.draft(tiny.target())
    save_draft(draft, tmp_path, {"chat_template_sha256": "abc"})
    return draft, tmp_path


def test_what_is_written_is_read_back(saved):
    draft, directory = saved
    found = load_draft(directory, 4)
    assert found.config == draft.config
    for name, tensor in draft.state_dict().items():
        rounded = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert torch.equal(found.state_dict()[name], rounded), name


def test_the_config_is_what_sglang_reads(saved):
    config = json.loads((saved[1] / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert config["eagle_config"] == {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    assert (config["draft_vocab_size"], config["tie_word_embeddings"]) == (tiny.DRAFT_VOCAB, False)
    assert config["aerie"]["chat_template_sha256"] == "abc"


def test_the_tensors_are_exactly_those_sglang_loads(saved):
    names = set(load_file(saved[1] / "model.safetensors"))
    if (SHIPPED / "model.safetensors").exists():
        assert names == set(load_file(SHIPPED / "model.safetensors"))
    attention = {f"midlayer.self_attn.{name}_proj.weight" for name in "qkvo"}
    mlp = {f"midlayer.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    norms = {f"midlayer.{name}.weight" for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")}
    assert names == attention | mlp | norms | {"fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"}


def test_every_tensor_that_does_not_fit_is_named_at_once(saved):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["norm.weight"]
    tensors["fc.weight"] = tensors["fc.weight"][:, :5].contiguous()
    tensors["fc.bias"] = torch.zeros(32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as failure:
        load_draft(saved[1], 4)
    text = str(failure.value)
    assert "tensor norm.weight is missing" in text
    assert "tensor fc.bias is unknown" in text
    assert "tensor fc.weight is [32, 5], not [32, 96]" in text


def test_a_missing_d2t_says_what_would_happen(saved):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["d2t"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="d2t is missing; SGLang would propose wrong tokens"):
        load_draft(saved[1], 4)


@pytest.mark.parametrize("content", [None, "{", '{"architectures": ["LlamaForCausalLM"]}'])
def test_a_directory_that_is_no_draft_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_draft(tmp_path, 4)


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fill(temporary):
        temporary.write_text("half of the ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_whole(path, fill)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
