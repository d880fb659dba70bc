"""The command line from data to a measured draft, on a tiny target in a directory."""

import json

import pytest
import torch

from draft_models import cli
from draft_models.checkpoint import load_draft
from draft_models.provenance import file_sha256
from tests.draft_models import tiny


def train(home, out, *more):
    arguments = ["train", "--target", home / "target", "--data", home / "rows.jsonl", "--out", out, "--taps", "1,2,3"]
    numbers = ["--draft-vocab-size", 40, "--held-out", 2, "--batch-tokens", 64, "--epochs", 1, "--num-steps", 2]
    return cli.main([str(part) for part in (*arguments, *numbers, *more)])


def evaluate(home, draft, *more):
    prompts = [home / "math.jsonl", home / "code.jsonl"]
    arguments = ["evaluate", home / "target", draft, "--dtype", "float32", "--max-tokens", 8, "--prompts", *prompts]
    return cli.main([str(part) for part in (*arguments, *more)])


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert train(home, out) == 0
    return out


def test_training_leaves_a_draft_that_sglang_can_read_and_says_where_it_is_from(trained):
    assert load_draft(trained / "draft", 4).config.taps == tiny.TAPS
    aerie = json.loads((trained / "draft" / "config.json").read_text())["aerie"]
    assert {"target", "chat_template_sha256", "rows_sha256", "recipe", "argv", "versions", "held_out_tau"} <= set(aerie)


def test_a_run_is_never_overwritten_but_resumed(home, trained, capsys):
    assert train(home, trained) == 1
    assert "holds a run; --resume goes on with it" in capsys.readouterr().err
    assert train(home, trained, "--resume") == 0
    assert train(home, trained, "--resume", "--learning-rate", "0.5") == 1
    assert "learning_rate was 0.001, is 0.5" in capsys.readouterr().err


def test_a_draft_is_gone_on_with_and_its_descendant_says_so(home, trained, tmp_path, capsys):
    parent, out = trained / "draft", tmp_path / "run"
    assert train(home, out, "--init", parent, "--learning-rate", "1e-9") == 0
    before, after = (load_draft(directory, 4).state_dict() for directory in (parent, out / "draft"))
    for name, tensor in before.items():
        assert torch.allclose(tensor.float(), after[name].float(), atol=1e-5), name
    first, second = (
        json.loads((directory / "config.json").read_text())["aerie"] for directory in (parent, out / "draft")
    )
    assert second["init"]["weights_sha256"] == file_sha256(parent / "model.safetensors")
    assert second["init"]["rows_sha256"] == first["rows_sha256"]
    assert train(home, out, "--init", parent, "--learning-rate", "1e-9", "--resume") == 0
    assert train(home, out, "--learning-rate", "1e-9", "--resume") == 1
    assert "init was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--taps", "1,2,4"), "it has taps (1, 2, 3), not (1, 2, 4)"),
        (("--draft-vocab-size", "39"), "it has draft_vocab_size 40, not 39"),
    ],
)
def test_training_on_does_not_change_what_a_draft_is(home, trained, tmp_path, capsys, change, reason):
    assert train(home, tmp_path / "run", "--init", trained / "draft", *change) == 1
    assert reason in capsys.readouterr().err


def test_what_was_trained_can_be_measured(home, trained, capsys):
    assert evaluate(home, trained / "draft", "--tree", "3/2/6", "--limit", 1) == 0
    assert capsys.readouterr().out.startswith("tree 3/2/6\n  math             tau ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--taps", "1,9"), "taps [1, 9] must rise and lie in 1..4"),
        (("--epochs", "0"), "epochs: Input should be greater than or equal to 1"),
        (("--draft-vocab-size", "99"), "draft_vocab_size 99 exceeds the target's 61 tokens"),
        (("--held-out", "99"), "nothing is left to train on"),
        (("--target", "/nowhere"), "/nowhere: no config.json"),
        (("--data", "/nowhere.jsonl"), "/nowhere.jsonl"),
    ],
)
def test_a_bad_argument_is_one_clear_line(home, tmp_path, capsys, change, reason):
    assert train(home, tmp_path, *change) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "draft").exists()


def test_answers_of_another_chat_template_are_not_trained_on(home, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes((home / "rows.jsonl").read_bytes())
    (tmp_path / "rows.jsonl.meta.json").write_text(json.dumps({"identity": {"chat_template_sha256": "another"}}))
    assert train(home, tmp_path / "run", "--data", rows) == 1
    assert "written under another chat template than the target's" in capsys.readouterr().err


def test_a_target_of_an_unknown_kind_is_not_measured(home, trained, tmp_path, capsys):
    config = json.loads((home / "target" / "config.json").read_text()) | {"model_type": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["evaluate", str(tmp_path), str(trained / "draft"), "--prompts", str(home / "math.jsonl")]) == 1
    assert "model_type 'gpt2' is not supported" in capsys.readouterr().err


def test_a_draft_that_is_none_and_a_prompt_that_is_too_long_are_one_clear_line(home, trained, capsys, tmp_path):
    assert evaluate(home, tmp_path) == 1
    assert "config.json" in capsys.readouterr().err
    assert evaluate(home, trained / "draft", "--max-tokens", "254") == 1
    error = capsys.readouterr().err
    assert f"{home / 'math.jsonl'}:1: a prompt of 4 tokens and an answer of up to 254: that does not fit" in error
    assert "the target's context of 256; leave the prompt out, or lower --max-tokens" in error


def test_check_exits_with_one_only_for_what_would_not_work(home, trained, capsys, tmp_path):
    assert cli.main(["check", str(home / "target"), str(trained / "draft")]) == 0
    assert "nothing to find fault with" in capsys.readouterr().out
    broken = json.loads((trained / "draft" / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(broken))
    assert cli.main(["check", str(home / "target"), str(tmp_path), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert findings[0]["level"] == "error"
    known = [f"--allow={finding['code']}" for finding in findings]
    assert cli.main(["check", str(home / "target"), str(tmp_path), *known]) == 0
