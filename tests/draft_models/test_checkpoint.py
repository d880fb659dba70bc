"""SGLang's format: written, read back, and strictly compared."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from draft_models.checkpoint import load_draft, save_draft, write_all_whole, write_whole
from draft_models.errors import CheckpointError
from tests.draft_models import foreign, tiny

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


def test_a_missing_d2t_says_what_to_do(saved):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["d2t"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="tensor d2t is missing; convert it with `aerie-draft import`"):
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


def test_several_files_are_replaced_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_text("old")

    def fail(temporary):
        temporary.write_text("half of the ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="second could not be written"):
        write_all_whole({first: lambda path: path.write_text("new"), second: fail})
    assert (first.read_text(), second.read_text()) == ("old", "old")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_place_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save_draft(foreign.draft(), tmp_path / "file" / "draft")


# -- drafts of others, in SGLang's format ------------------------------------------------------------------------------


def edit(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(directory, **changes):
    path = directory / "model.safetensors"
    save_file(load_file(path) | changes, path)


def test_a_draft_of_specforge_s_is_read_as_sglang_reads_it(tmp_path):
    made = foreign.draft()
    foreign.write_specforge(made, tmp_path, {"head_dim": None, "rope_theta": 20000.0}, weights=foreign.tensors(made))
    found = load_draft(tmp_path, foreign.LAYERS).config
    assert (found.head_dim, found.rope_parameters["rope_theta"], found.taps) == (8, 20000.0, (2, 4, 5))


def test_tensors_that_sglang_reads_and_we_do_not_are_sent_to_import(tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is unknown; convert it with `aerie-draft import`"):
        load_draft(tmp_path, foreign.LAYERS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eagle_config": [1, 3, 4]}, r"eagle_config is \[1, 3, 4\], not an object"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": "2,4"}}, "is '2,4', not a list of layers"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": ["1"]}}, "not a list of layers"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [4, 3, 1]}}, "must rise"),
        ({"eagle_config": None}, "a target of 4 layers has no default taps"),
        ({"draft_vocab_size": None}, "no draft_vocab_size"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta is 'big'"),
        ({"hidden_size": "wide"}, "no Llama layer"),
    ],
)
def test_a_configuration_that_is_none_is_one_clear_error_with_a_remedy(saved, change, says):
    edit(saved[1], **change)
    with pytest.raises(CheckpointError, match=f"{says}.*; correct it, or convert it with `aerie-draft import`$"):
        load_draft(saved[1], 4)


@pytest.mark.parametrize(
    "change",
    [
        {"norm_output": True},
        {"norm_before_residual": True},
        {"tie_word_embeddings": True},
        {"eagle_config": {"use_aux_hidden_state": False, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}},
    ],
)
def test_a_setting_that_makes_it_another_model_than_ours_is_refused(saved, change):
    edit(saved[1], **change)
    with pytest.raises(CheckpointError, match="use another draft"):
        load_draft(saved[1], 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"d2t": torch.zeros(tiny.DRAFT_VOCAB)}, "not whole numbers"),
        ({"d2t": torch.full((tiny.DRAFT_VOCAB,), 60)}, "not within 0..60"),
        ({"d2t": -torch.arange(tiny.DRAFT_VOCAB)}, "does not rise"),
        ({"d2t": torch.zeros(tiny.DRAFT_VOCAB, dtype=torch.long)}, "do not describe the same tokens"),
        ({"d2t": tiny.t2d().nonzero().squeeze(1)}, "d2t is an offset"),
    ],
)
def test_a_vocabulary_mapping_that_is_wrong_is_not_measured(saved, change, says):
    rewrite(saved[1], **change)
    with pytest.raises(CheckpointError, match=f"{says}.*; convert it with `aerie-draft import`$"):
        load_draft(saved[1], 4)


def test_two_writers_of_one_file_do_not_get_in_each_others_way(tmp_path):
    """As processes that fill one feature cache do: the second begins and ends while the first writes."""
    path = tmp_path / "file"

    def first(temporary):
        temporary.write_text("first")
        write_whole(path, lambda other: other.write_text("second"))
        assert path.read_text() == "second"

    write_whole(path, first)
    assert path.read_text() == "first"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
