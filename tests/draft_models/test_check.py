"""What SGLang would pass over in silence is said, with its consequence and its remedy."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from draft_models.check import check
from draft_models.checkpoint import save_draft
from draft_models.checks.facts import read_facts
from draft_models.checks.layout import expected
from draft_models.commands import check as command
from draft_models.errors import CheckpointError
from tests.draft_models import foreign, tiny

SHIPPED = Path(__file__).parents[2] / "draft_models" / "smollm2-135m-instruct-eagle3"


@pytest.fixture
def saved(tmp_path):
    save_draft(foreign.draft(), tmp_path, {"chat_template_sha256": "abc"})
    return foreign.target(), tmp_path


def edit(directory, remove=(), **changes):
    path = directory / "config.json"
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in found.items() if name not in remove}))


def rewrite(directory, **changes):
    path = directory / "model.safetensors"
    weights = {name.replace("_.", "."): tensor for name, tensor in (load_file(path) | changes).items()}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


def taps(*layers):
    return {"eagle_config": {"eagle_aux_hidden_state_layer_ids": list(layers)}}


def codes(target, directory, *more):
    return [finding.code for finding in check(target, "abc", directory, *more)]


def test_a_good_draft_has_no_findings(saved):
    assert check(saved[0], "abc", saved[1]) == []


@pytest.mark.parametrize(
    ("change", "level", "code", "what"),
    [
        ({"hidden_size": 64}, "error", "tensor_shape", "fc.weight is [32, 96]"),
        ({"target_hidden_size": 64}, "error", "hidden_size", "target_hidden_size is 64, the target's is 32"),
        ({"target_hidden_size": None}, "error", "target_hidden_size", "target_hidden_size is None"),
        ({"vocab_size": 100}, "error", "vocab_size", "vocab_size is 100, the target's is 61"),
        ({"max_position_embeddings": 128}, "error", "positions", "is 128, the target's context 256"),
        ({"norm_before_residual": True}, "error", "norm_before_residual", "norm_before_residual"),
        ({"hidden_act": "gelu"}, "error", "hidden_act", "'gelu'"),
        ({"intermediate_size": "big"}, "error", "config_value", "intermediate_size is 'big'"),
        ({"num_hidden_layers": 0}, "error", "config_value", "num_hidden_layers is 0"),
        ({"num_hidden_layers": 40}, "error", "tensor_missing", "tensor layers.1.hidden_norm.weight is missing"),
        ({"draft_vocab_size": None}, "warning", "draft_vocab_size_null", "draft_vocab_size is null"),
        ({"draft_vocab_size": 62}, "error", "draft_vocab_size", "draft_vocab_size is 62, of a vocabulary of 61"),
        ({"draft_vocab_size": 39}, "error", "d2t_shape", "not whole numbers [39]"),
        ({"tie_word_embeddings": True}, "error", "tied_head", "tie_word_embeddings is true"),
        ({"bias": True}, "error", "tensor_missing", "tensor fc.bias is missing"),
        ({"fc_norm": True}, "error", "tensor_missing", "tensor fc_norm.0.weight is missing"),
        ({"norm_before_fc": True}, "error", "tensor_missing", "tensor input_norm.weight is missing"),
        ({"aerie": {"chat_template_sha256": "other"}}, "warning", "template_differs", "is not the one"),
        ({"aerie": {}}, "warning", "template_unknown", "the draft does not say"),
        (taps(0, 3, 7), "error", "taps_range", "taps [7]"),
        (taps(-1, 3, 4), "error", "taps_range", "taps [-1]"),
        (taps(4, 3, 1), "error", "taps_order", "do not rise"),
        (taps(3, 3, 4), "error", "taps_order", "do not rise"),
        (taps(1, 3), "error", "taps_count", "fc reads 96 features, and 2 taps of 32 make 64"),
        (taps("1", 2), "error", "taps_value", "not a list of layers"),
        (taps(), "error", "taps_value", "not a list of layers"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, "warning", "taps_off", "use_aux_hidden_state is false"),
        (
            {"eagle_config": None, "eagle_aux_hidden_state_layer_ids": [2, 4, 5]},
            "error",
            "taps_place",
            "beside eagle_config",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_found(saved, change, level, code, what):
    edit(saved[1], **change)
    found = [finding for finding in check(saved[0], "abc", saved[1]) if finding.code == code]
    assert found
    assert found[0].level == level
    assert what in found[0].what


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("draft_vocab_size", "draft_vocab_size_absent"),
        ("hidden_size", "config_key"),
        ("num_hidden_layers", "config_key"),
        ("max_position_embeddings", "config_key"),
    ],
)
def test_a_key_for_which_sglang_takes_another_model_s_default_is_found(saved, name, code):
    edit(saved[1], remove=[name])
    assert code in codes(*saved)


def test_taps_that_look_like_hugging_face_s_are_a_warning_unless_we_wrote_them(saved):
    edit(saved[1], **taps(2, 4, 5))
    assert codes(*saved) == []
    edit(saved[1], remove=["aerie"])
    assert codes(*saved) == ["template_unknown", "taps_counting"]


def test_a_target_too_small_for_sglang_s_taps_needs_them_written(saved):
    edit(saved[1], eagle_config=None)
    assert codes(*saved) == []
    assert codes(tiny.config(), saved[1]) == ["taps_default"]


# -- format and algorithm ----------------------------------------------------------------------------------------------


def test_an_eagle_3_draft_under_eagle_would_accept_nothing_silently(saved):
    (finding,) = check(*[saved[0], "abc", saved[1]], "EAGLE")
    assert (finding.code, finding.level) == ("algorithm", "error")
    assert "acceptance length 1.00" in finding.consequence


def test_a_draft_of_eagle_1_is_named_as_such(saved):
    edit(saved[1], architectures=["LlamaForCausalLM"])
    weights = {"fc.weight": torch.zeros(32, 64), "layers.0.mlp.up_proj.weight": torch.zeros(48, 32)}
    save_file(weights, saved[1] / "model.safetensors")
    (finding,) = check(saved[0], "abc", saved[1])
    assert finding.code == "eagle1_draft"
    assert "--speculative-algorithm EAGLE" in finding.mend
    assert codes(*saved, "EAGLE") == []


@pytest.mark.parametrize("norm", [False, True])
def test_speculators_format_is_sent_to_import_and_norm_before_residual_nowhere(tmp_path, norm):
    foreign.write_speculators(foreign.draft(), tmp_path, {"norm_before_residual": norm})
    found = check(foreign.target(), "abc", tmp_path)
    assert [finding.code for finding in found] == ["speculators_format", "norm_before_residual"][: 1 + norm]
    assert "`aerie-draft import`" in found[0].mend


def test_eagle_s_own_format_is_sent_to_import(tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path)
    found = {finding.code: finding for finding in check(foreign.target(), "abc", tmp_path)}
    assert {"architecture", "weights_missing", "positions"} <= set(found)
    assert found["weights_missing"].what == "there is no model.safetensors, only pytorch_model.bin"
    assert "`aerie-draft import`" in found["weights_missing"].mend


def test_specforge_s_format_is_served_as_it_is(tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path)
    found = check(foreign.target(dtype=torch.float32), "abc", tmp_path)
    assert [finding.code for finding in found] == ["template_unknown", "embedding_ignored"]


def test_another_architecture_is_found(saved):
    edit(saved[1], architectures=["LlamaForCausalLM"])
    assert codes(*saved) == ["architecture"]


def test_weights_in_another_precision_than_the_target_are_a_warning(saved):
    (finding,) = check(foreign.target(dtype=torch.float16), "abc", saved[1])
    assert (finding.level, finding.code) == ("warning", "dtype")
    assert finding.what == "the draft's weights are bfloat16, the target is float16"


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_tensors_are_judged_by_their_headers(saved):
    rewrite(saved[1], **{"norm.weight": None, "extra": torch.zeros(2)})
    found = [finding.what for finding in check(saved[0], "abc", saved[1])]
    assert found == ["tensor norm.weight is missing", "tensor extra is unknown"]


@pytest.mark.parametrize("prefix", ["layers.0.", "model.layers.0.", "model.midlayer."])
def test_names_are_read_as_sglang_s_loader_does(saved, prefix):
    path = saved[1] / "model.safetensors"
    save_file({name.replace("midlayer.", prefix): tensor for name, tensor in load_file(path).items()}, path)
    assert check(saved[0], "abc", saved[1]) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"d2t": None}, "d2t_missing"),
        ({"t2d": None}, "t2d_missing"),
        ({"d2t": torch.zeros(tiny.DRAFT_VOCAB)}, "d2t_shape"),
        ({"t2d": torch.ones(7, dtype=torch.bool)}, "t2d_shape"),
        ({"d2t": torch.full((tiny.DRAFT_VOCAB,), 60)}, "d2t_range"),
        ({"d2t": -torch.arange(tiny.DRAFT_VOCAB)}, "d2t_order"),
        ({"d2t": torch.zeros(tiny.DRAFT_VOCAB, dtype=torch.long)}, "d2t_t2d"),
        ({"d2t": tiny.t2d().nonzero().squeeze(1)}, "d2t_ids"),
    ],
)
def test_a_vocabulary_mapping_that_is_wrong_is_found(saved, changes, code):
    rewrite(saved[1], **changes)
    assert codes(*saved) == [code]


def test_a_full_vocabulary_needs_no_d2t(tmp_path):
    save_draft(foreign.draft(tiny.VOCAB), tmp_path, {"chat_template_sha256": "abc"})
    rewrite(tmp_path, d2t=None, t2d=None)
    assert codes(foreign.target(), tmp_path) == []


def test_the_layout_is_that_of_the_drafts_we_write(saved):
    facts, _ = read_facts(saved[1], saved[0])
    shapes = {name: tuple(tensor.shape) for name, tensor in foreign.draft().state_dict().items()}
    assert expected(facts) == {name: shape for name, shape in shapes.items() if name not in ("d2t", "t2d")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    known=st.sets(st.integers(0, tiny.VOCAB - 1), min_size=tiny.DRAFT_VOCAB, max_size=tiny.DRAFT_VOCAB),
    at=st.integers(0, 39),
    by=st.integers(-70, 70),
)
def test_any_single_wrong_offset_is_found(known, at, by, saved):
    ids = torch.tensor(sorted(known))
    t2d = torch.zeros(tiny.VOCAB, dtype=torch.bool)
    t2d[ids] = True
    d2t = ids - torch.arange(tiny.DRAFT_VOCAB)
    rewrite(saved[1], d2t=d2t, t2d=t2d)
    assert codes(*saved) == []
    d2t[at] += by
    rewrite(saved[1], d2t=d2t)
    assert len(codes(*saved)) == (by != 0)


ANYTHING = (
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
)
KEYS = (
    "architectures",
    "hidden_size",
    "head_dim",
    "eagle_config",
    "draft_vocab_size",
    "aerie",
    "dtype",
    "num_hidden_layers",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from((*KEYS, "target_hidden_size", "num_aux_hidden_states")), ANYTHING))
def test_any_configuration_is_judged_without_falling_over(changes, saved):
    config = (saved[1] / "config.json").read_text()
    edit(saved[1], **changes)
    for finding in check(saved[0], "abc", saved[1]):
        assert finding.level in ("error", "warning")
        assert all((finding.code, finding.what, finding.consequence, finding.mend))
    (saved[1] / "config.json").write_text(config)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_directory_without_a_draft_is_an_error(saved, tmp_path):
    with pytest.raises(CheckpointError):
        check(saved[0], "abc", tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["{", "[]", "3", ""])
def test_a_configuration_that_is_none_is_one_clear_error(saved, content):
    (saved[1] / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        check(saved[0], "abc", saved[1])


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_truncated_weights_are_one_finding(saved, length):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert codes(*saved) == ["weights_broken"]


def test_absent_weights_are_one_finding(saved):
    (saved[1] / "model.safetensors").unlink()
    assert codes(*saved) == ["weights_missing"]


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_a_target_of_config_json_alone_is_enough(saved, tmp_path, capsys):
    saved[0].save_pretrained(tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["config.json"]
    assert run(tmp_path / "target", saved[1], "--json") == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert set(finding) == {"level", "code", "what", "consequence", "mend"}
    assert (finding["level"], finding["code"]) == ("warning", "template_unknown")


def test_the_exit_status_is_one_only_for_errors(saved, tmp_path, capsys):
    saved[0].save_pretrained(tmp_path / "target")
    edit(saved[1], architectures=["LlamaForCausalLM"])
    assert run(tmp_path / "target", saved[1]) == 1
    assert "error architecture: architectures is ['LlamaForCausalLM']" in capsys.readouterr().out


def test_an_algorithm_that_sglang_has_not_is_refused_with_those_it_has(saved, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, saved[1], "--algorithm", "eagle3")
    assert "choose from EAGLE3, EAGLE, NEXTN, STANDALONE" in capsys.readouterr().err.replace("'", "")


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="the weights are not here")
def test_the_shipped_draft_has_no_errors():
    target = tiny.config(
        vocab_size=49152, hidden_size=576, num_hidden_layers=30, max_position_embeddings=8192, dtype=torch.bfloat16
    )
    assert {finding.level for finding in check(target, None, SHIPPED)} <= {"warning"}
