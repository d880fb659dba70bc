# ruff: noqa: N803, N806, N812  shape suffixes
"""A published draft is imported whole, exactly and explained, or not at all."""

import argparse
import contextlib
import json
import pickle

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from draft_models import vocab
from draft_models.check import check
from draft_models.checkpoint import load_draft, save_draft
from draft_models.commands import import_
from draft_models.errors import CheckpointError, ConfigError, DraftError, FormatError
from draft_models.formats import eagle, mapping, sglang, speculators
from draft_models.formats.importing import import_draft
from draft_models.formats.report import FAILED, Action
from draft_models.formats.source import read_embedding, read_source
from tests.draft_models import foreign, tiny

EVERY_FORMAT = pytest.mark.parametrize("name", foreign.WRITERS)


def imported(directory, embedding=None, **changes):
    return import_draft(read_source(directory), foreign.target(**changes), embedding)


def run(source, target, out, *more):
    parser = argparse.ArgumentParser()
    import_.add_options(parser)
    return import_.run(parser.parse_args([str(part) for part in (source, target, "--out", out, *more)]))


def fates(report):
    return {fate.name: fate for fate in report.tensors}


def failures(report):
    return {fate.name: fate.action for fate in report.tensors if fate.action in FAILED}


@pytest.fixture
def target(tmp_path):
    """A directory with config.json alone."""
    foreign.target().save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def causal(query_MHd, key_MGd, value_MGd):
    query, key, value = (x.transpose(0, 1)[None] for x in (query_MHd, key_MGd, value_MGd))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


# -- what is imported --------------------------------------------------------------------------------------------------


@EVERY_FORMAT
def test_an_imported_draft_computes_what_the_original_does(name, tmp_path, target):
    foreign.WRITERS[name](foreign.draft(), tmp_path / "source")
    assert run(tmp_path / "source", target, tmp_path / "out") == 0
    draft = load_draft(tmp_path / "out", foreign.LAYERS)
    embed_MD, features_MF = torch.randn(7, 32), torch.randn(7, 96)
    original = read_source(tmp_path / "source").tensors
    wanted = foreign.forward(original, foreign.layer_config(draft), embed_MD, features_MF)
    hidden_MD = draft(embed_MD, draft.fuse(features_MF), torch.arange(7), causal)
    assert torch.allclose(draft.logits(hidden_MD), wanted, atol=1e-4)
    assert torch.equal(draft.target_ids(torch.arange(tiny.DRAFT_VOCAB)), tiny.t2d().nonzero().squeeze(1))


@EVERY_FORMAT
def test_the_format_is_found_out_and_the_imported_draft_is_one_sglang_reads(name, tmp_path, target):
    foreign.WRITERS[name](foreign.draft(), tmp_path / "source")
    report, _ = imported(tmp_path / "source")
    assert report.format == name
    run(tmp_path / "source", target, tmp_path / "out")
    found = check(foreign.target(), None, tmp_path / "out")
    assert [finding.code for finding in found] == ["template_unknown"]
    again, _ = imported(tmp_path / "out")
    assert again.format == "SGLang (SpecForge)"


@EVERY_FORMAT
def test_every_tensor_has_exactly_one_fate(name, tmp_path):
    foreign.WRITERS[name](foreign.draft(), tmp_path)
    report, draft = imported(tmp_path)
    assert len(fates(report)) == len(report.tensors)
    assert {fate.name for fate in report.tensors} == set(read_source(tmp_path).tensors)
    assert {fate.becomes for fate in report.tensors} - {None} == set(draft.state_dict())


def test_importing_our_own_draft_changes_nothing(tmp_path, target):
    save_draft(foreign.draft(taps=(1, 3, 6)), tmp_path / "ours", {"chat_template_sha256": "abc", "recipe": {"seed": 1}})
    assert run(tmp_path / "ours", target, tmp_path / "out") == 0
    before, after = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("ours", "out"))
    assert before == after
    was, now = (load_file(tmp_path / place / "model.safetensors") for place in ("ours", "out"))
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)


def test_an_import_says_where_the_draft_is_from(tmp_path, target):
    foreign.write_eagle(foreign.draft(), tmp_path / "source")
    run(tmp_path / "source", target, tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text()
    origin = json.loads(text)["aerie"]["imported"]
    assert (origin["format"], set(origin["sha256"])) == ("EAGLE", {"pytorch_model.bin"})
    assert {"argv", "commit", "versions", "utc"} <= set(origin)
    assert origin["source"] == ".../source"
    assert str(tmp_path) not in text


def test_what_was_imported_can_be_imported_again_and_is_still_not_ours(tmp_path, target):
    foreign.write_specforge(
        foreign.draft(), tmp_path / "source", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}}
    )
    assert run(tmp_path / "source", target, tmp_path / "out") == 0
    assert run(tmp_path / "out", target, tmp_path / "again") == 0
    for place in ("out", "again"):
        assert "taps_counting" in [finding.code for finding in check(foreign.target(), None, tmp_path / place)]
    first, again = (json.loads((tmp_path / place / "config.json").read_text())["aerie"] for place in ("out", "again"))
    assert first == again


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_nothing_is_written_over_a_model(name, tmp_path, target):
    foreign.write_eagle(foreign.draft(), tmp_path / "source")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("theirs")
    with pytest.raises(ConfigError, match="holds a model"):
        run(tmp_path / "source", target, tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "theirs"


@pytest.mark.parametrize("taps", ["", "low,high", "1,,2"])
def test_taps_that_are_no_numbers_are_a_sentence(taps, tmp_path, target, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, target, tmp_path / "out", "--taps", taps)
    assert "write hidden_states indices, like 2,16,29" in capsys.readouterr().err


# -- taps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "taps"),
    [
        ("EAGLE", {}, (2, 4, 5)),
        ("SGLang (SpecForge)", {}, (2, 4, 5)),
        ("SGLang (SpecForge)", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}, (2, 4, 5)),
        ("SGLang (SpecForge)", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 5]}}, (1, 3, 6)),
        ("speculators", {"eagle_aux_hidden_state_layer_ids": None}, (2, 4, 5)),
        ("speculators", {"eagle_aux_hidden_state_layer_ids": [1, 3, 6]}, (1, 3, 6)),
    ],
)
def test_taps_are_counted_as_each_format_counts_them(name, config, taps, tmp_path):
    foreign.WRITERS[name](foreign.draft(), tmp_path, config)
    report, draft = imported(tmp_path)
    assert draft.config.taps == report.taps == taps
    assert report.sglang_layer_ids == tuple(tap - 1 for tap in taps)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("speculators", {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}, "--taps 2,4,5"),
        ("SGLang (SpecForge)", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}}, "--taps 2,4,5"),
    ],
)
def test_taps_that_look_like_the_other_way_of_counting_are_said_and_can_be_named(name, config, says, tmp_path, target):
    foreign.WRITERS[name](foreign.draft(), tmp_path / "source", config)
    report, _ = imported(tmp_path / "source")
    assert says in report.warnings[0]
    assert run(tmp_path / "source", target, tmp_path / "out", "--taps", "2,4,5") == 0
    assert load_draft(tmp_path / "out", foreign.LAYERS).config.taps == (2, 4, 5)


@pytest.mark.parametrize("name", ["SGLang (SpecForge)", "speculators"])
@pytest.mark.parametrize("layers", [[], "2,4,5", [0, 1, 99], [4, 2, 5], [2, 2, 5], [True, 2, 4]])
def test_taps_that_are_none_are_one_clear_error(name, layers, tmp_path):
    config = {"eagle_aux_hidden_state_layer_ids": layers}
    foreign.WRITERS[name](foreign.draft(), tmp_path, config if name == "speculators" else {"eagle_config": config})
    with pytest.raises(FormatError, match=r"taps|eagle_aux_hidden_state_layer_ids"):
        imported(tmp_path)


# -- configurations of published drafts, as their pages show them ------------------------------------------------------


def test_the_published_configuration_of_eagle_s_llama_draft():
    """SafeAILab/EAGLE@cb7e084 eagle/traineagle3/config.json: no rope, no head_dim, no taps, 2,048 positions."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    }
    config |= {
        "max_position_embeddings": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
    }
    reading = eagle.read(config | {"draft_vocab_size": 32000, "torch_dtype": "float16", "hidden_act": "silu"}, 32)
    assert (reading.taps, reading.draft_vocab_size, reading.refusals) == ((2, 16, 29), 32000, ())
    assert reading.layer.rope_parameters == {"rope_theta": 10000.0, "rope_type": "default"}


def test_the_published_configuration_of_specforge_s_gpt_oss_draft():
    """sgl-project/SpecForge@a6b6b02 configs/gpt-oss-20B-eagle3.json: [1, 11, 21] are outputs."""
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_size": 2880,
        "intermediate_size": 17280,
        "head_dim": 64,
    }
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 201088, "draft_vocab_size": 32000}
    reading = sglang.read(config | {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 11, 21]}}, 24)
    assert (reading.taps, reading.refusals, reading.layer.head_dim) == ((2, 12, 22), (), 64)


@pytest.mark.parametrize(("norm_before_residual", "refused"), [(False, 0), (True, 1)])
def test_the_published_configurations_of_converted_speculators(norm_before_residual, refused):
    """nm-testing/EAGLE3-LLaMA3.1-Instruct-8B-converted (false); nm-testing/for_testing_gptoss20b_spec_eagle3 (true)."""
    nested = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "head_dim": 128,
        "vocab_size": 128256,
    }
    nested |= {"num_attention_heads": 32, "num_key_value_heads": 8, "rope_scaling": None, "rope_theta": 500000.0}
    config = {"speculators_model_type": "eagle3", "transformer_layer_config": nested, "draft_vocab_size": 32000}
    config |= {"has_no_defaults_at_init": False, "target_hidden_size": None, "torch_dtype": "float32"}
    reading = speculators.read(config | {"norm_before_residual": norm_before_residual}, 32)
    assert reading.taps == (2, 16, 29)
    assert len(reading.refusals) == refused
    assert reading.layer.rope_parameters == {"rope_theta": 500000.0, "rope_type": "default"}


# -- vocabulary --------------------------------------------------------------------------------------------------------


def test_t2d_is_rebuilt_from_d2t(tmp_path):
    weights = foreign.tensors(foreign.draft())
    del weights["t2d"]
    foreign.write_specforge(foreign.draft(), tmp_path, weights=weights)
    report, draft = imported(tmp_path)
    assert fates(report)["t2d"].action is Action.REBUILT
    assert torch.equal(draft.t2d, tiny.t2d())


@pytest.mark.parametrize("d2t", [None, torch.zeros(tiny.VOCAB, dtype=torch.long)])
def test_a_full_vocabulary_needs_no_d2t(tmp_path, d2t):
    weights = foreign.tensors(foreign.draft(tiny.VOCAB))
    del weights["t2d"], weights["d2t"]
    foreign.write_eagle(foreign.draft(tiny.VOCAB), tmp_path, weights=weights | ({} if d2t is None else {"d2t": d2t}))
    report, draft = imported(tmp_path)
    assert report.ok
    assert torch.equal(draft.target_ids(torch.arange(tiny.VOCAB)), torch.arange(tiny.VOCAB))
    assert draft.t2d.all()


def test_a_reduced_vocabulary_without_d2t_is_refused(tmp_path):
    weights = foreign.tensors(foreign.draft())
    del weights["d2t"]
    foreign.write_specforge(foreign.draft(), tmp_path, weights=weights)
    report, draft = imported(tmp_path)
    assert (failures(report), draft) == ({"d2t": Action.MISSING}, None)


def test_a_vocabulary_size_that_is_not_told_is_that_of_the_head(tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path, {"draft_vocab_size": None})
    assert imported(tmp_path)[1].config.draft_vocab_size == tiny.DRAFT_VOCAB


@given(known=st.lists(st.booleans(), min_size=1, max_size=50).filter(any))
def test_a_mapping_that_is_right_is_kept_as_it_is(known):
    t2d_V = torch.tensor(known)
    d2t_W = vocab.offsets(t2d_V)
    for given_t2d in (t2d_V, None):
        found_W, found_V, what = mapping.complete(d2t_W, given_t2d, len(d2t_W), len(known))
        assert torch.equal(found_V, t2d_V)
        assert torch.equal(found_W, d2t_W)
        assert not {fate.action for fate in what} & FAILED


@given(
    d2t=st.lists(st.integers(-60, 60), min_size=1, max_size=6),
    t2d=st.none() | st.lists(st.booleans(), max_size=12),
    size=st.integers(1, 12),
)
def test_any_mapping_is_either_refused_or_rises_within_the_vocabulary(d2t, t2d, size):
    d2t_W = torch.tensor(d2t)
    t2d_V = None if t2d is None else torch.tensor(t2d, dtype=torch.bool)
    found_W, found_V, what = mapping.complete(d2t_W, t2d_V, len(d2t), max(size, len(d2t)))
    if not {fate.action for fate in what} & FAILED:
        ids = vocab.target_ids(found_W).tolist()
        assert ids == sorted(set(ids)) == found_V.nonzero().squeeze(1).tolist()


# -- what is dropped ---------------------------------------------------------------------------------------------------


def with_embedding(directory, embedding):
    foreign.write_specforge(
        foreign.draft(), directory, weights=foreign.tensors(foreign.draft()) | {"embed_tokens.weight": embedding}
    )


def test_a_copy_of_the_target_s_embedding_is_dropped_and_the_report_says_what_is_known_of_it(tmp_path):
    with_embedding(tmp_path, foreign.embedding())
    compared, _ = imported(tmp_path, foreign.embedding().bfloat16())
    assert fates(compared)["embed_tokens.weight"].action is Action.DROPPED
    assert "a copy" in fates(compared)["embed_tokens.weight"].why
    not_compared, _ = imported(tmp_path)
    assert "could not be compared" in fates(not_compared)["embed_tokens.weight"].why


def test_an_embedding_that_was_trained_is_not_dropped(tmp_path):
    with_embedding(tmp_path, foreign.embedding() + 0.1)
    report, draft = imported(tmp_path, foreign.embedding())
    assert (failures(report), draft) == ({"embed_tokens.weight": Action.REFUSED}, None)


def test_an_embedding_of_another_size_is_not_dropped(tmp_path):
    with_embedding(tmp_path, torch.zeros(tiny.VOCAB + 3, 32))
    assert failures(imported(tmp_path)[0]) == {"embed_tokens.weight": Action.SHAPE}


def test_the_target_s_embedding_is_read_where_it_has_weights_and_only_there(tmp_path, target):
    assert read_embedding(target) is None
    model = tiny.target()
    model.model.save_pretrained(tmp_path / "whole")
    assert torch.equal(read_embedding(tmp_path / "whole"), model.embed_VD)
    model.model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(read_embedding(tmp_path / "shards"), model.embed_VD)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        ("speculators", {"norm_before_residual": True}, "SGLang has no counterpart"),
        ("speculators", {"norm_before_fc": True}, "the features are normed before fc"),
        ("speculators", {"norm_output": True}, "the normed output is fed back"),
        ("speculators", {"eagle_aux_hidden_state_layer_ids": [2, 4, 8]}, "which SGLang cannot capture"),
        ("speculators", {"target_hidden_size": 64}, "target_hidden_size is 64, the target's is 32"),
        ("EAGLE", {"norm_before_residual": True}, "SGLang has no counterpart"),
        ("EAGLE", {"hidden_act": "gelu"}, "silu only"),
        ("SGLang (SpecForge)", {"fc_norm": True}, "each feature is normed"),
        ("SGLang (SpecForge)", {"eagle_config": {"norm_before_fc": True}}, "the features are normed before fc"),
        ("SGLang (SpecForge)", {"eagle_config": {"use_aux_hidden_state": False}}, "reads one layer"),
        ("SGLang (SpecForge)", {"tie_word_embeddings": True}, "lm_head is the embedding"),
    ],
)
def test_a_setting_without_counterpart_is_refused_with_the_reason(name, config, why, tmp_path, target, capsys):
    foreign.WRITERS[name](foreign.draft(), tmp_path / "source", config)
    assert run(tmp_path / "source", target, tmp_path / "out") == 1
    assert why in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_speculators_that_do_not_say_where_they_norm_are_refused_as_vllm_would_read_them(tmp_path):
    foreign.write_speculators(foreign.draft(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["norm_before_residual"]
    foreign.write_config(tmp_path, config)
    assert "absent, which vLLM reads as true" in imported(tmp_path)[0].refusals[0]


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({"norm.weight": None}, Action.MISSING),
        ({"midlayer.mlp.up_proj.weight": None}, Action.MISSING),
        ({"surprise": torch.zeros(2)}, Action.UNKNOWN),
        ({"fc.weight": torch.zeros(32, 64)}, Action.SHAPE),
        ({"lm_head.weight": torch.zeros(41, 32)}, Action.SHAPE),
        ({"fc.bias": torch.zeros(32)}, Action.REFUSED),
        ({"midlayer.self_attn.q_norm.weight": torch.zeros(8)}, Action.REFUSED),
        ({"layers.1.mlp.up_proj.weight": torch.zeros(8)}, Action.REFUSED),
        ({"input_norm.weight": torch.zeros(96)}, Action.REFUSED),
        ({"norm.weight": torch.zeros(32, dtype=torch.int8)}, Action.REFUSED),
        ({"d2t": torch.full((tiny.DRAFT_VOCAB,), 999)}, Action.REFUSED),
        ({"d2t": torch.zeros(tiny.DRAFT_VOCAB)}, Action.SHAPE),
        ({"d2t": -torch.arange(tiny.DRAFT_VOCAB)}, Action.REFUSED),
        ({"t2d": torch.ones(tiny.VOCAB, dtype=torch.bool)}, Action.REFUSED),
        ({"t2d": torch.ones(3, dtype=torch.bool)}, Action.SHAPE),
    ],
)
def test_a_tensor_that_does_not_fit_stops_the_import_and_is_the_only_one_named(change, action, tmp_path, target):
    weights = foreign.tensors(foreign.draft()) | change
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    foreign.write_specforge(foreign.draft(), tmp_path / "source", weights=weights)
    report, draft = imported(tmp_path / "source")
    assert draft is None
    assert failures(report) == dict.fromkeys(change, action)
    assert run(tmp_path / "source", target, tmp_path / "out", "--json") == 1
    assert not (tmp_path / "out").exists()


def test_two_tensors_with_one_meaning_are_refused(tmp_path):
    twice = {"layers.0.mlp.up_proj.weight": torch.zeros(48, 32)}
    foreign.write_specforge(foreign.draft(), tmp_path, weights=foreign.tensors(foreign.draft()) | twice)
    report, draft = imported(tmp_path)
    assert (draft, list(failures(report).values())) == (None, [Action.REFUSED])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(lost=st.sets(st.integers(0, 13), min_size=1, max_size=4), renamed=st.booleans())
def test_no_tensor_can_be_lost_or_misnamed_unnoticed(lost, renamed, tmp_path):
    whole = foreign.tensors(foreign.draft())
    gone = {name for index, name in enumerate(sorted(whole.keys() - {"t2d"})) if index in lost}
    weights = {name: tensor for name, tensor in whole.items() if name not in gone}
    weights |= {f"x.{name}": whole[name] for name in gone if renamed}
    foreign.write_specforge(foreign.draft(), tmp_path, weights=weights)
    report, draft = imported(tmp_path)
    assert draft is None
    assert gone <= set(failures(report))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"hidden_size": 64}, "hidden_size is 32, the target's is 64"), ({"vocab_size": 99}, "vocab_size is 61")],
)
def test_a_draft_of_another_target_is_refused(change, says, tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path)
    report, draft = imported(tmp_path, **change)
    assert draft is None
    assert says in report.refusals[0]


def test_a_draft_of_eagle_1_is_named_as_such(tmp_path):
    weights = {"fc.weight": torch.zeros(32, 64), "layers.0.mlp.up_proj.weight": torch.zeros(48, 32)}
    foreign.write_eagle(foreign.draft(), tmp_path, weights=weights)
    with pytest.raises(FormatError, match=r"EAGLE-1 or EAGLE-2.*--speculative-algorithm EAGLE"):
        imported(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"speculators_model_type": "dflash"}, "'dflash': only eagle3"),
        ({"transformer_layer_config": {"model_type": "mamba"}}, "model_type 'mamba'"),
        ({"transformer_layer_config": 3}, "model_type 3"),
        ({"draft_vocab_size": "32k"}, "draft_vocab_size is '32k', not a whole number"),
        ({"draft_vocab_size": 62}, "draft_vocab_size 62 exceeds"),
    ],
)
def test_speculators_of_another_kind_are_one_clear_error(config, says, tmp_path):
    foreign.write_speculators(foreign.draft(), tmp_path, config)
    with pytest.raises(FormatError, match=says):
        imported(tmp_path)


ANYTHING = (
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
)
KEYS = ("hidden_size", "num_attention_heads", "rms_norm_eps", "vocab_size", "rope_scaling", "rope_theta", "head_dim")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from((*KEYS, "eagle_config", "draft_vocab_size")), ANYTHING, min_size=1))
def test_any_configuration_is_imported_or_refused_with_one_of_our_errors(changes, tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path, changes)
    with contextlib.suppress(DraftError):
        report, draft = imported(tmp_path)
        assert report.ok == (draft is not None)


# -- positions ---------------------------------------------------------------------------------------------------------


def test_positions_are_the_target_s_and_the_report_says_so(tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path)
    report, draft = imported(tmp_path)
    assert draft.config.max_position_embeddings == 256
    assert "max_position_embeddings 64 -> 256" in report.changes[0]
    assert "weights float16 -> bfloat16" in report.changes


def test_more_positions_do_not_change_the_rope(tmp_path):
    rope = {"type": "yarn", "factor": 4.0}
    foreign.write_specforge(foreign.draft(), tmp_path, {"rope_scaling": rope, "max_position_embeddings": 64})
    found = imported(tmp_path)[1].config
    assert found.max_position_embeddings == 256
    assert found.rope_parameters["original_max_position_embeddings"] == 64
    foreign.write_specforge(foreign.draft(), tmp_path, {"rope_scaling": rope | {"type": "dynamic"}})
    with pytest.raises(FormatError, match="rope_type 'dynamic' is not supported"):
        imported(tmp_path)


# -- files -------------------------------------------------------------------------------------------------------------


def test_shards_are_read_as_one(tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(weights)}
    for part in set(names.values()):
        save_file({name: weights[name] for name in weights if names[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    report, _ = imported(tmp_path)
    assert (report.ok, report.files) == (True, ("part-0.safetensors", "part-1.safetensors"))


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"no pickle", pickle.dumps({"fc.weight": 3}, 2), pickle.dumps(Trap(), 2)],
    ids=["empty", "cut", "text", "no tensors", "code"],
)
def test_pickled_weights_that_are_none_are_one_clear_error_and_nothing_in_them_runs(content, tmp_path, capsys):
    foreign.write_eagle(foreign.draft(), tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_source(tmp_path)
    assert "executed" not in capsys.readouterr().out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@example(place=0.0, byte=128, cut=False)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_pickle_is_an_error_of_ours_or_still_tensors(place, byte, cut, tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path)
    path = tmp_path / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] = byte
    path.write_bytes(content[:at] if cut else content)
    with contextlib.suppress(CheckpointError):
        found = read_source(tmp_path).tensors
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "a JSON list, not an object"),
        ("config.json", b"\xff", "config.json"),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "model.safetensors"),
        ("model.safetensors", None, "neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_a_broken_file_is_one_clear_error(name, content, says, tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_source(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "notes.txt", 3])
def test_an_index_cannot_lead_out_of_its_directory(shard, tmp_path):
    foreign.write_specforge(foreign.draft(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.weight": shard}}))
    with pytest.raises(CheckpointError, match="files beside it"):
        read_source(tmp_path)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_report_is_for_people_and_for_programs(tmp_path, target, capsys):
    foreign.write_speculators(foreign.draft(), tmp_path / "source")
    assert run(tmp_path / "source", target, tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "format   speculators (model.safetensors)" in text
    assert "taps     hidden_states[2, 4, 5] = SGLang's layers [1, 3, 4]" in text
    assert "renamed  layers.0.mlp.up_proj.weight -> midlayer.mlp.up_proj.weight" in text
    assert "dropped  verifier_norm.weight: the target's, for training" in text
    assert run(tmp_path / "source", target, tmp_path / "again", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["ok"], found["out"]) == ("speculators", True, str(tmp_path / "again"))
    assert {"name", "action", "becomes", "why"} == set(found["tensors"][0])


def test_a_model_is_never_overwritten(tmp_path, target):
    foreign.write_eagle(foreign.draft(), tmp_path / "source")
    with pytest.raises(ConfigError, match="choose another --out"):
        run(tmp_path / "source", target, tmp_path / "source")


def test_a_target_that_is_none_is_one_clear_error(tmp_path):
    foreign.write_eagle(foreign.draft(), tmp_path / "source")
    (tmp_path / "target").mkdir()
    for text in ("{", "{}", "[]", '{"model_type": "nope"}'):
        (tmp_path / "target" / "config.json").write_text(text)
        with pytest.raises(DraftError) as failure:
            run(tmp_path / "source", tmp_path / "target", tmp_path / "out")
        assert "\n" not in str(failure.value)
