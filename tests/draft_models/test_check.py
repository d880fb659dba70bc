"""What SGLang would pass over in silence is said, with its consequence and its remedy."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from draft_models.check import check
from draft_models.checkpoint import save_draft
from draft_models.errors import CheckpointError
from tests.draft_models import tiny


@pytest.fixture
def saved(tmp_path):
    target = tiny.target()
    save_draft(tiny.draft(target), tmp_path, {"chat_template_sha256": "abc"})
    return target.config, tmp_path


def edit(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_draft_has_no_findings(saved):
    assert check(saved[0], "abc", saved[1]) == []


@pytest.mark.parametrize(
    ("change", "level", "what"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "error", "architectures is"),
        ({"hidden_size": 64}, "error", "hidden_size is 64, the target's is 32"),
        ({"vocab_size": 100}, "error", "vocab_size is 100"),
        ({"max_position_embeddings": 128}, "error", "max_position_embeddings is 128, the target's context 256"),
        ({"norm_before_residual": True}, "error", "norm_before_residual"),
        ({"aerie": {"chat_template_sha256": "other"}}, "warning", "chat template is not the one"),
        ({"aerie": {}}, "warning", "no chat template hash"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 9]}}, "error", "taps"),
    ],
)
def test_a_config_that_does_not_fit_is_found(saved, change, level, what):
    edit(saved[1], **change)
    assert any(finding.level == level and what in finding.what for finding in check(saved[0], "abc", saved[1]))


def test_tensors_are_judged_by_their_headers(saved):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["norm.weight"]
    save_file(tensors | {"extra": torch.zeros(2)}, path)
    found = [finding.what for finding in check(saved[0], "abc", saved[1])]
    assert found == ["tensor norm.weight is missing", "tensor extra is unknown"]


def test_a_d2t_that_holds_ids_instead_of_offsets_is_found(saved):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    tensors["d2t"] += torch.arange(tiny.DRAFT_VOCAB)
    save_file(tensors, path)
    assert "d2t is an offset" in check(saved[0], "abc", saved[1])[0].what


def test_a_directory_without_a_draft_is_an_error(saved, tmp_path):
    with pytest.raises(CheckpointError):
        check(saved[0], "abc", tmp_path / "nowhere")
