"""From prompts to training rows on a tiny target: whole, resumable, under the template, and nothing of the evaluation.

The chat template is "t2 t3 MESSAGE <end> t4" for a user's turn; <end> is token 1 and ends every turn.
"""

import json
import random
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from draft_models import cli
from draft_models.answers import AnswerFile
from draft_models.data import read_rows
from draft_models.decode import decode_plain
from draft_models.errors import CheckpointError
from draft_models.overlap import Overlap
from draft_models.prepare import overlapping
from draft_models.target import Target, load_tokenizer
from tests.draft_models import tiny
from tests.draft_models.scripted_endpoint import completion, failure, serve

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}"
    "t2 t3 {{ message['content'] }} <end> t4 "
    "{% endfor %}"
)
BEFORE, AFTER = [2, 3], [1, 4]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The tiny target, with a template that has something before the user's message."""
    directory = tmp_path_factory.mktemp("chat") / "target"
    tiny.target(spread=0.05).model.save_pretrained(directory)  # flat enough for turns to end
    vocabulary = {f"t{index}": index for index in range(tiny.VOCAB) if index != 1} | {"<end>": 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE, eos_token="<end>")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """24 prompts of 1 to 30 words."""
    chance = random.Random(1)
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = [" ".join(f"t{chance.randrange(5, 61)}" for _ in range(chance.randrange(1, 31))) for _ in range(24)]
    path.write_text("\n".join(json.dumps({"id": f"p{index}", "prompt": text}) for index, text in enumerate(texts)))
    return path


def prepare(target, out, *more):
    arguments = ["prepare", "--target", target, "--out", out, "--max-tokens", 20, "--batch-size", 5]
    return cli.main([str(part) for part in (*arguments, "--dtype", "float32", *more)])


def rows(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def keyed(out):
    return {row["prompt_id"]: row for row in rows(out)}


@pytest.fixture(scope="module")
def whole(target, prompts, tmp_path_factory):
    """An uninterrupted run: prompts, and eight of the target's own."""
    out = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    assert prepare(target, out, "--prompts", prompts, "--self-prompts", 8, "--greedy-share", 0.6) == 0
    return out


def test_every_row_is_read_by_training(whole):
    assert len(read_rows([whole], tiny.VOCAB, tiny.CONTEXT)) == len(rows(whole)) == len(keyed(whole)) == 32


def test_the_response_begins_where_the_template_lets_the_target_answer(whole, prompts):
    asked = {record["id"]: record["prompt"] for record in map(json.loads, prompts.read_text().splitlines())}
    for row in rows(whole):
        prompt, response = row["ids"][: row["response_start"]], row["ids"][row["response_start"] :]
        assert (prompt[:2], prompt[-2:]) == (BEFORE, AFTER)
        assert 1 not in response[:-1]
        assert response[-1] == 1 or len(response) == 20
        if row["kind"] == "prompt":
            assert prompt == BEFORE + [int(word[1:]) for word in asked[row["prompt_id"]].split()] + AFTER


def test_greedy_rows_are_the_targets_own_answers(whole, target):
    alone, checked = Target.load(target, tiny.TAPS, torch.float32), 0
    for row in rows(whole):
        if row["temperature"] == 0:
            prompt, response = row["ids"][: row["response_start"]], row["ids"][row["response_start"] :]
            assert response == decode_plain(alone, prompt, 20, {1}).ids
            checked += 1
    assert 10 < checked < 32  # some are sampled


def test_a_run_that_was_interrupted_goes_on_to_the_same_rows(whole, target, prompts, tmp_path, monkeypatch, capsys):
    out, append = tmp_path / "answers.jsonl", AnswerFile.append
    options = ["--prompts", prompts, "--self-prompts", 8, "--greedy-share", 0.6]

    def interrupted(file, row):
        if len(file.answered) in (7, 26):
            raise KeyboardInterrupt
        append(file, row)

    monkeypatch.setattr(AnswerFile, "append", interrupted)
    assert prepare(target, out, *options) == 130
    assert "prepare goes on where it was" in capsys.readouterr().err
    with out.open("a") as file:
        file.write('{"prompt_id": "p1", "ids": [1, 2')  # a kill in the middle of a line
    monkeypatch.setattr(AnswerFile, "append", append)
    assert prepare(target, out, *options, "--limit", 20, "--batch-size", 3) == 0
    assert "20 prompts, 7 of them answered already" in capsys.readouterr().out
    assert prepare(target, out, *options) == 0
    assert keyed(out) == keyed(whole)
    assert len(rows(out)) == 32


def test_a_finished_run_has_nothing_left_to_do(target, prompts, whole):
    before = whole.read_bytes()
    assert prepare(target, whole, "--prompts", prompts, "--self-prompts", 8, "--greedy-share", 0.6) == 0
    assert whole.read_bytes() == before


def test_another_run_does_not_write_into_the_file(target, prompts, whole, capsys):
    before = whole.read_bytes()
    assert prepare(target, whole, "--prompts", prompts, "--greedy-share", 0.6, "--seed", 1) == 1
    assert "another run (seed was 0, is 1); another --out starts anew" in capsys.readouterr().err
    assert whole.read_bytes() == before


def test_the_target_prompts_itself_under_the_template(whole):
    own = [row for row in rows(whole) if row["kind"] == "self"]
    assert [row["prompt_id"] for row in sorted(own, key=lambda row: row["prompt_id"])] == [
        f"self-0-{index}" for index in range(8)
    ]
    assert len({tuple(row["ids"][: row["response_start"]]) for row in own}) == 8
    assert all(1 not in row["ids"][2 : row["response_start"] - 2] for row in own)


def test_a_turn_that_is_an_evaluation_prompt_is_sampled_again(whole, target, tmp_path, capsys):
    row = keyed(whole)["self-0-0"]
    leaked = " ".join(f"t{token}" for token in row["ids"][2 : row["response_start"] - 2])
    (tmp_path / "bench.jsonl").write_text(json.dumps({"turns": ["t5", leaked]}))
    out = tmp_path / "answers.jsonl"
    assert prepare(target, out, "--self-prompts", 8, "--exclude", tmp_path / "bench.jsonl") == 0
    printed = capsys.readouterr().out
    assert (
        f"left out: 1 in overlap with evaluation prompts, the first self-0-0 ({tmp_path / 'bench.jsonl'}:1)" in printed
    )
    assert len(rows(out)) == 8
    again = keyed(out)["self-0-0"]
    assert again["ids"][: again["response_start"]] != row["ids"][: row["response_start"]]


def test_rows_of_evaluation_prompts_are_found_afterwards(whole, target):
    tokenizer, found = load_tokenizer(target), rows(whole)
    texts = [tokenizer.decode(row["ids"][2 : row["response_start"] - 2]) for row in found]
    assert overlapping(found, tokenizer, Overlap({"a": [texts[3]], "b": [texts[30]]})) == [3, 30]


def test_evaluation_prompts_are_left_out_and_counted(target, prompts, tmp_path, capsys):
    lines = prompts.read_text().splitlines()
    (tmp_path / "bench.jsonl").write_text("\n".join([lines[0], lines[4]]))
    out = tmp_path / "answers.jsonl"
    assert prepare(target, out, "--prompts", prompts, "--exclude", tmp_path / "bench.jsonl", "--limit", 5) == 0
    printed = capsys.readouterr().out
    assert (
        f"left out: 2 in overlap with evaluation prompts, the first {prompts}:1 ({tmp_path / 'bench.jsonl'}:1)"
        in printed
    )
    assert set(keyed(out)) == {"p1", "p2", "p3", "p5", "p6"}


def test_a_prompt_that_is_too_long_is_left_out_and_counted(target, tmp_path, capsys):
    words = ["t5", "t6 " * 300, "t7", "t8 " * 231]  # with four tokens of the template, 232 would just fit
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text, "id": index}) for index, text in enumerate(words)))
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", path) == 0
    assert f"left out: 1 longer than 236 tokens, the first {path}:2 (304 tokens)" in capsys.readouterr().out
    assert set(keyed(tmp_path / "out.jsonl")) == {"0", "2", "3"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "nothing to answer: name --prompts, or how many --self-prompts"),
        (["--prompts", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--self-prompts", 1, "--max-length", 300], "max_length 300 exceeds the target's context of 256"),
        (["--self-prompts", 1, "--max-tokens", 256], "max_tokens 256 leaves no room for a prompt in max_length 256"),
        (["--self-prompts", 1, "--greedy-share", 1.5], "greedy_share: Input should be less than or equal to 1"),
        (["--self-prompts", 1, "--endpoint", "http://127.0.0.1:9"], "--self-prompts needs the target in this process"),
        (["--self-prompts", 1, "--target", "/nowhere"], "/nowhere: no"),
    ],
)
def test_a_bad_argument_is_one_clear_line(target, tmp_path, capsys, options, reason):
    assert prepare(target, tmp_path / "out.jsonl", *options) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_conversation_that_the_template_refuses_is_named(target, tmp_path, capsys):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": "t5"} for role in ("system", "user")]}))
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", path) == 1
    assert f"{path}:1: the chat template refuses the conversation: no system message" in capsys.readouterr().err


def test_a_template_that_begins_with_the_message_cannot_prompt_itself(home, tmp_path, capsys):
    assert prepare(home / "target", tmp_path / "out.jsonl", "--self-prompts", 1) == 1
    assert "nothing before a user's message" in capsys.readouterr().err


def reply(request, _):
    """Answers with the message's first word; a long message is cut."""
    words = request["messages"][-1]["content"].split()
    return completion(f"{words[0]} t9", "length" if len(words) > 15 else "stop")


def test_an_endpoints_answers_are_rows_too(target, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("AERIE_API_KEY", "secret")
    out = tmp_path / "answers.jsonl"
    with serve(reply) as script:
        assert prepare(target, out, "--prompts", prompts, "--endpoint", script.url, "--greedy-share", 0.5) == 0
    assert len(read_rows([out], tiny.VOCAB, tiny.CONTEXT)) == 24
    for row in rows(out):
        message, response = row["ids"][2 : row["response_start"] - 2], row["ids"][row["response_start"] :]
        assert response == [message[0], 9] + ([1] if len(message) <= 15 else [])
    assert {one["model"] for one in script.requests} == {"tiny"}
    assert {one["max_tokens"] for one in script.requests} == {20}
    assert {(one["temperature"], one.get("top_p")) for one in script.requests} == {(0.0, None), (0.7, 0.95)}
    assert script.headers[0]["Authorization"] == "Bearer secret"


def test_an_endpoint_that_fails_for_some_prompts_leaves_the_others_and_is_asked_again(
    target, prompts, tmp_path, capsys
):
    out = tmp_path / "answers.jsonl"
    refused, later = (json.loads(line)["prompt"] for line in prompts.read_text().splitlines()[3:5])

    def sometimes(request, attempt):
        if request["messages"][-1]["content"] == refused:
            return failure(400, "this one\nis refused")
        busy = request["messages"][-1]["content"] == later and attempt == 1
        return failure(503, "busy") if busy else reply(request, attempt)

    with serve(sometimes) as script:
        options = ["--prompts", prompts, "--endpoint", script.url, "--model", "tiny", "--concurrency", 4]
        assert prepare(target, out, *options) == 1
        error = capsys.readouterr().err
        assert "1 of 24 prompts failed: 1 BadRequestError; first p3: " in error
        assert len(error.splitlines()) == 1
        assert len(script.requests) == 25  # the SDK asked the busy one again
        assert len(rows(out)) == 23
        script.answer = reply
        assert prepare(target, out, *options) == 0
        assert len(script.requests) == 26
    assert len(keyed(out)) == len(rows(out)) == 24


def test_an_answer_without_text_is_a_failure(target, prompts, tmp_path, capsys):
    with serve(lambda *_: completion(None)) as script:
        options = ["--prompts", prompts, "--limit", 2, "--endpoint", script.url, "--model", "tiny"]
        assert prepare(target, tmp_path / "out.jsonl", *options) == 1
    assert "2 of 2 prompts failed: 2 without an answer; first p" in capsys.readouterr().err


def test_what_would_fail_for_every_prompt_ends_it(target, prompts, tmp_path, capsys):
    with serve(lambda *_: failure(401, "wrong key")) as script:
        options = ["--prompts", prompts, "--endpoint", script.url, "--concurrency", 1]
        assert prepare(target, tmp_path / "out.jsonl", *options) == 1
        assert len(script.requests) == 1
    assert "wrong key" in capsys.readouterr().err
    with serve(lambda *_: failure(400, "no")) as script:
        options = ["--prompts", prompts, "--endpoint", script.url, "--concurrency", 1]
        assert prepare(target, tmp_path / "out.jsonl", *options) == 1
        assert len(script.requests) == 16
    assert "16 failures in a row" in capsys.readouterr().err


def test_an_endpoint_that_is_not_there_is_one_clear_line(target, prompts, tmp_path, capsys):
    with serve(reply) as script:
        pass
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", script.url) == 1
    assert f"{script.url}: Connection error." in capsys.readouterr().err


def test_an_endpoint_needs_the_sdk(target, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", "http://127.0.0.1:9") == 1
    assert "--endpoint needs the OpenAI SDK: pip install openai" in capsys.readouterr().err


def test_a_full_disk_ends_it_in_one_line_and_what_is_there_is_whole(target, prompts, tmp_path, capsys, monkeypatch):
    def full(file, row):
        raise CheckpointError("answers.jsonl could not be written (No space left on device); its 0 rows are whole")

    monkeypatch.setattr(AnswerFile, "append", full)
    with serve(reply) as script:
        for options in ([], ["--endpoint", script.url]):
            assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, *options) == 1
            assert capsys.readouterr().err.count("No space left on device") == 1
            (tmp_path / "out.jsonl").unlink()
