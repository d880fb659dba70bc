"""The recording: a line on where it comes from, a line for every answer, and taus that `evaluate` measures too."""

import json

import pytest

from draft_models import cli
from draft_models.checkpoint import WEIGHTS, save_draft
from draft_models.evaluate import Setting, evaluate
from draft_models.prompts import read_evaluation
from draft_models.provenance import file_sha256
from draft_models.record import record
from draft_models.target import Target, load_tokenizer
from draft_models.tree import TreeShape
from tests.draft_models import tiny


@pytest.fixture(scope="module")
def recording(home, tmp_path_factory):
    """The command, on an untrained draft and two tasks."""
    place = tmp_path_factory.mktemp("record")
    save_draft(tiny.draft(tiny.target()), place / "draft")

    def run(*more):
        arguments = ["record", home / "target", place / "draft", "--dtype", "float32", "--max-tokens", 12, *more]
        arguments += ["--prompts", home / "math.jsonl", home / "code.jsonl", "--output", place / "record.jsonl"]
        return cli.main([str(part) for part in arguments])

    run.place = place
    return run


def test_a_recording_says_where_it_comes_from_and_holds_every_growth_of_every_answer(recording, home, capsys):
    assert recording("--tree", "3/2/6") == 0
    assert "4 prompts" in capsys.readouterr().out
    head, *answers = map(json.loads, (recording.place / "record.jsonl").read_text().splitlines())
    assert (head["format"], head["widest"]) == ("aerie-acceptance-record/1", "3/2/6")
    assert head["draft_sha256"] == file_sha256(recording.place / "draft" / WEIGHTS)
    assert {"argv", "commit", "versions", "hardware", "utc"} == set(head["provenance"])
    assert str(home) not in json.dumps(head)
    assert [answer["task"] for answer in answers] == ["math", "math", "code", "code"]
    for answer in answers:
        assert set(answer["needed"]) == {"1/1", "1/2", "2/1", "2/2", "3/1", "3/2"}
        assert {len(paths) for paths in answer["needed"].values()} == {answer["answer_tokens"] - 1}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_recorded_answer_accepts_what_an_evaluation_measures(home, temperature):
    target = tiny.target()
    draft, tokenizer = tiny.draft(target), load_tokenizer(home / "target")
    prompts = [prompt for task in ("math", "code") for prompt in read_evaluation(home / f"{task}.jsonl")]
    setting = Setting(TreeShape(3, 4, 20), max_tokens=16, temperature=temperature, seed=5)
    recorded = list(record(target, draft, tokenizer, prompts, setting))
    for shape in map(TreeShape.parse, ("1/1/2", "3/1/4", "2/4/9", "3/4/20")):
        measured = evaluate(target, draft, tokenizer, prompts, Setting(shape, 16, temperature, 5)).measured
        assert [one.acceptance(shape) for one in recorded] == [one.acceptance for one in measured]


def test_an_answer_of_one_token_has_nothing_to_draft(home):
    target = Target(tiny.target().model, tiny.TAPS, "tiny")
    tokenizer, (prompt, *_) = load_tokenizer(home / "target"), read_evaluation(home / "math.jsonl")
    first = next(record(target, tiny.draft(target), tokenizer, [prompt], Setting(TreeShape(2, 2, 4), 4)))
    assert first.answer_tokens > 1
    target.model.generation_config.eos_token_id = list(range(tiny.VOCAB))
    (ended,) = record(target, tiny.draft(target), tokenizer, [prompt], Setting(TreeShape(2, 2, 4), 4))
    assert ended.answer_tokens == 1
    assert set(map(tuple, ended.needed.values())) == {()}
    assert ended.acceptance(TreeShape(2, 2, 4)).tau == 1


@pytest.mark.parametrize(
    ("change", "reason"), [(("--max-tokens", "254"), "does not fit the target's context"), (("--max-tokens", "1"), "2")]
)
def test_a_setting_that_cannot_be_is_one_line_and_leaves_no_file(recording, capsys, change, reason):
    (recording.place / "record.jsonl").unlink(missing_ok=True)
    assert recording(*change) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not (recording.place / "record.jsonl").exists()
