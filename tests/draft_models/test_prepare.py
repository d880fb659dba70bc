"""From prompts to training rows on a tiny target: whole, resumable, under the template, and nothing of the evaluation.

The chat template is "t2 t3 MESSAGE <end> t4" for a user's turn; <end> is token 1 and ends every turn.
"""

import json
import random
import resource
import shutil
import sys
from collections import Counter

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from draft_models import cli
from draft_models.answers import AnswerFile
from draft_models.commands.prepare import api_key
from draft_models.data import read_rows
from draft_models.decode import decode_plain
from draft_models.overlap import Overlap
from draft_models.selection import Recipe, Screen, Skipped, without_overlap
from draft_models.selfprompt import TRIES, SelfPrompts
from draft_models.target import Target, load_tokenizer, target_digest
from tests.draft_models import tiny
from tests.draft_models.scripted_endpoint import completion, failure, serve

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}"
    "t2 t3 {{ message['content'] }} <end> t4 "
    "{% endfor %}"
)
BEFORE, AFTER = [2, 3], [1, 4]

WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}t9 t7 t8 <end> {% endif %}"
    "{% for message in messages %}"
    "{{ {'system': 't9', 'user': 't10', 'assistant': 't11'}[message['role']] }} {{ message['content'] }} <end> "
    "{% endfor %}t11 "
)
"""Like ChatML, with "t7 t8" for a default system message."""


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


def rows_if_any(out):
    return rows(out) if out.exists() else []


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

    def interrupt_at(count):
        def interrupted(file, row):
            if len(file.answered) == count:
                raise KeyboardInterrupt
            append(file, row)

        monkeypatch.setattr(AnswerFile, "append", interrupted)

    interrupt_at(7)
    assert prepare(target, out, *options) == 130
    assert "prepare goes on where it was" in capsys.readouterr().err
    with out.open("a") as file:
        file.write('{"prompt_id": "p1", "ids": [1, 2')  # a kill in the middle of a line
    interrupt_at(25)
    assert prepare(target, out, *options, "--limit", 20, "--batch-size", 3) == 130
    assert "20 prompts, 7 of them answered already" in capsys.readouterr().out
    assert 0 < Counter(row["kind"] for row in rows(out))["self"] < 8  # while it prompts itself
    monkeypatch.setattr(AnswerFile, "append", append)
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
    tokenizer, found = load_tokenizer(target), read_rows([whole], tiny.VOCAB, tiny.CONTEXT)
    texts = [tokenizer.decode(list(row.ids[2 : row.response_start - 2])) for row in found]
    kept, skipped = without_overlap(found, tokenizer, Overlap({"a": [texts[3]], "b": [texts[30]]}))
    assert kept == [row for index, row in enumerate(found) if index not in (3, 30)]
    assert skipped.lines() == [f"2 in overlap with evaluation prompts, the first {found[3].key} (a)"]


def train(target, data, out, *more):
    arguments = ["train", "--target", target, "--data", data, "--out", out, "--taps", "1,2,3", "--held-out", 2]
    numbers = ["--draft-vocab-size", 40, "--batch-tokens", 64, "--epochs", 1, "--num-steps", 2]
    return cli.main([str(part) for part in (*arguments, *numbers, *more)])


def test_training_leaves_rows_of_evaluation_prompts_out_and_says_so(whole, target, prompts, tmp_path, capsys):
    (tmp_path / "bench.jsonl").write_text("\n".join(prompts.read_text().splitlines()[3:6]))
    assert train(target, whole, tmp_path / "run", "--exclude", tmp_path / "bench.jsonl") == 0
    printed = capsys.readouterr().out
    assert "27 rows, " in printed  # of 32, 2 of them held out
    assert "left out: 3 in overlap with evaluation prompts, the first p" in printed
    assert f"({tmp_path / 'bench.jsonl'}:" in printed


@pytest.fixture
def polite(target, tmp_path):
    """The target, under a template with a default system message."""
    directory, tokenizer = shutil.copytree(target, tmp_path / "polite"), load_tokenizer(target)
    tokenizer.chat_template = WITH_SYSTEM
    tokenizer.save_pretrained(directory)
    return directory


def test_a_default_system_message_stands_before_every_prompt_and_an_own_one_instead_of_it(polite, tmp_path, capsys):
    own = [{"role": "system", "content": "t12 t13"}, {"role": "user", "content": "t14"}]
    again = [*own, {"role": "assistant", "content": "t15"}, {"role": "user", "content": "t16 t17"}]
    asked = [{"prompt": "t14", "id": "plain"}, {"messages": own, "id": "own"}, {"messages": again, "id": "again"}]
    path, bench, out = tmp_path / "prompts.jsonl", tmp_path / "bench.jsonl", tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    assert prepare(polite, out, "--prompts", path, "--self-prompts", 4) == 0
    found = {key: row["ids"][: row["response_start"]] for key, row in keyed(out).items()}
    assert found["plain"] == [9, 7, 8, 1, 10, 14, 1, 11]
    assert found["own"] == [9, 12, 13, 1, 10, 14, 1, 11]
    assert found["again"] == [9, 12, 13, 1, 10, 14, 1, 11, 15, 1, 10, 16, 17, 1, 11]
    for key in ("self-0-0", "self-0-1", "self-0-2", "self-0-3"):
        assert (found[key][:5], found[key][-2:]) == ([9, 7, 8, 1, 10], [1, 11])
        assert 1 not in found[key][5:-2]
    bench.write_text('{"prompt": "T14!"}\n{"prompt": "t14 t16 t17"}')
    assert train(polite, out, tmp_path / "run", "--exclude", bench) == 0
    assert "left out: 3 in overlap with evaluation prompts, the first " in capsys.readouterr().out


def test_another_targets_answers_are_not_trained_on(whole, target, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(target, other)
    tiny.target(seed=1, hidden_size=64).model.save_pretrained(other)
    assert train(other, whole, tmp_path / "run") == 1
    assert "another target's answers; prepare it again with this one" in capsys.readouterr().err
    assert prepare(other, whole, "--self-prompts", 8, "--greedy-share", 0.6) == 1
    assert f'another run (target was "{target_digest(target)}", is ' in capsys.readouterr().err


def test_a_target_that_was_moved_is_the_same(whole, target, prompts, tmp_path):
    before = whole.read_bytes()
    moved = shutil.copytree(target, tmp_path / "elsewhere")
    assert prepare(moved, whole, "--prompts", prompts, "--self-prompts", 8, "--greedy-share", 0.6) == 0
    assert whole.read_bytes() == before


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
        (["--self-prompts", 1, "--device", "cuda"], "--device cuda: torch sees no CUDA device"),
        (["--self-prompts", 1, "--batch-size", 10**11], "out of memory with 100000000000 answers at a time: a smaller"),
    ],
)
def test_a_bad_argument_is_one_clear_line(target, tmp_path, capsys, options, reason):
    assert prepare(target, tmp_path / "out.jsonl", *options) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not rows_if_any(tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("gpt2", "model_type 'gpt2' is not supported; supported: llama"), ("nonsense", "config.json: ")],
)
@pytest.mark.parametrize("more", [(), ("--endpoint", "http://127.0.0.1:9")])
def test_a_target_of_an_unknown_kind_is_refused_first(target, prompts, tmp_path, capsys, model_type, reason, more):
    shutil.copytree(target, tmp_path / "target")
    config = json.loads((target / "config.json").read_text()) | {"model_type": model_type}
    (tmp_path / "target" / "config.json").write_text(json.dumps(config))
    assert prepare(tmp_path / "target", tmp_path / "out.jsonl", "--prompts", prompts, *more) == 1
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


def test_every_special_token_breaks_a_self_prompted_turn(target):
    tokenizer = load_tokenizer(target)
    tokenizer.add_tokens([AddedToken("t6", special=True), AddedToken("t7", special=False)])
    selves = SelfPrompts(Screen(tokenizer, Recipe(), Overlap({})), {5}, Skipped(), print)
    assert selves.request("self").stop == {1, 5, 6}


def test_a_self_prompt_that_no_try_was_of_use_for_is_given_up_for_good(whole, target, prompts, tmp_path, capsys):
    tries = []

    def refuse_one(self, conversation, skipped):
        if conversation.key == "self-0-3":
            tries.append(conversation.text)
            return None
        return find(self, conversation, skipped)

    find, out = Screen.prompt, tmp_path / "answers.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screen, "prompt", refuse_one)
        assert prepare(target, out, "--self-prompts", 8) == 0
    assert 0 < len(set(tries)) == len(tries) <= TRIES
    assert "1 self-prompts were given up" in capsys.readouterr().out
    before = out.read_bytes()
    assert prepare(target, out, "--self-prompts", 8) == 0
    assert out.read_bytes() == before
    assert set(keyed(out)) == {f"self-0-{index}" for index in range(8)} - {"self-0-3"}


def reply(request, _):
    """Answers with the message's first word; a long message is cut."""
    words = request["messages"][-1]["content"].split()
    return completion(f"{words[0]} t9", "length" if len(words) > 15 else "stop")


def test_an_endpoints_answers_are_rows_too(target, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("AERIE_API_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "nobody else's business")
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


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.openai.com/v1", "openai's"),
        ("https://api.openai.com.example.org/v1", ""),
        ("http://127.0.0.1:30000", ""),
    ],
)
def test_openais_key_is_for_openai_alone(monkeypatch, url, sent):
    monkeypatch.setenv("OPENAI_API_KEY", "openai's")
    monkeypatch.delenv("AERIE_API_KEY", raising=False)
    assert api_key(url) == sent
    monkeypatch.setenv("AERIE_API_KEY", "mine")
    assert api_key(url) == (sent or "mine")


@pytest.mark.parametrize("text", [None, ""])
def test_an_answer_that_ended_at_once_is_a_row_of_its_end(target, prompts, tmp_path, text):
    out = tmp_path / "out.jsonl"
    with serve(lambda *_: completion(text)) as script:
        options = ["--prompts", prompts, "--limit", 2, "--endpoint", script.url]
        assert prepare(target, out, *options) == prepare(target, out, *options) == 0
        assert len(script.requests) == 2
    assert [row["ids"][row["response_start"] :] for row in rows(out)] == [[1], [1]]
    assert len(read_rows([out], tiny.VOCAB, tiny.CONTEXT)) == 2


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_answers_whose_thoughts_were_taken_out_are_refused(target, prompts, tmp_path, capsys, name):
    def thoughtful(*_):
        status, body = completion("t9") if name == "reasoning" else completion(None, "length")  # still thinking
        body["choices"][0]["message"][name] = "t8"
        return status, body

    with serve(thoughtful) as script:
        assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", script.url) == 1
    assert "serve it without a reasoning parser" in capsys.readouterr().err
    assert rows(tmp_path / "out.jsonl") == []


def test_an_endpoint_that_renders_another_template_is_refused(target, prompts, tmp_path, capsys):
    def counted(more):
        def answer(request, _):
            status, body = completion("t9")
            there = len(request["messages"][-1]["content"].split()) + 4 + more
            return status, body | {"usage": {"prompt_tokens": there, "completion_tokens": 1, "total_tokens": there + 1}}

        return answer

    options = ["--prompts", prompts, "--limit", 1]
    for more, status in ((20, 1), (0, 0)):
        with serve(counted(more)) as script:
            assert prepare(target, tmp_path / "out.jsonl", *options, "--endpoint", script.url) == status
    words = len(json.loads(prompts.read_text().splitlines()[0])["prompt"].split())
    assert (
        f"the endpoint renders another chat template: {words + 24} prompt tokens there, {words + 4} here (p0); serve"
        in capsys.readouterr().err
    )
    assert set(keyed(tmp_path / "out.jsonl")) == {"p0"}


def test_an_answer_without_text_that_did_not_end_is_a_failure(target, prompts, tmp_path, capsys):
    with serve(lambda *_: completion(None, "length")) as script:
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


def test_many_at_a_time_are_given_up_after_three_rounds_and_what_is_finished_is_kept(target, tmp_path, capsys):
    many, out = tmp_path / "many.jsonl", tmp_path / "out.jsonl"
    many.write_text("\n".join(json.dumps({"prompt": f"t{5 + index % 50} t{5 + index // 50}"}) for index in range(130)))

    def breaks(request, _):
        return reply(request, _) if len(script.requests) <= 20 else failure(400, "out of order")

    with serve(breaks) as script:
        assert prepare(target, out, "--prompts", many, "--endpoint", script.url) == 1
        assert 20 + 48 <= len(script.requests) < 20 + 48 + 2 * 16  # what was under way ends too
        error = capsys.readouterr().err
        assert " failures in a row: " in error
        assert "finished rows are kept: once the endpoint is well, the same command goes on" in error
        assert len(rows(out)) == 20
        script.answer = reply
        assert prepare(target, out, "--prompts", many, "--endpoint", script.url) == 0
    assert len(keyed(out)) == len(rows(out)) == 130


def test_a_restart_that_every_question_meets_once_is_no_failure(target, prompts, tmp_path):
    with serve(
        lambda request, attempt: failure(503, "restarting") if attempt == 1 else reply(request, attempt)
    ) as script:
        assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", script.url) == 0
    assert len(rows(tmp_path / "out.jsonl")) == 24


def test_an_endpoint_that_is_not_there_is_one_clear_line(target, prompts, tmp_path, capsys):
    with serve(reply) as script:
        pass
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", script.url) == 1
    error = capsys.readouterr().err
    assert f"{script.url}/v1: Connection error. (start the server that --endpoint names" in error
    assert len(error.splitlines()) == 1


def test_an_endpoint_needs_the_sdk(target, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    assert prepare(target, tmp_path / "out.jsonl", "--prompts", prompts, "--endpoint", "http://127.0.0.1:9") == 1
    assert "--endpoint needs the OpenAI SDK: pip install openai" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_full_disk_ends_it_in_one_line_and_what_is_there_is_whole(target, prompts, tmp_path, capsys, where):
    out, (soft, hard) = tmp_path / "out.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with serve(reply) as script:
        options = ["--prompts", prompts, *(["--endpoint", script.url] if where == "there" else [])]
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))  # some rows fit, and the sidecar does
        try:
            assert prepare(target, out, *options) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        error = capsys.readouterr().err
        assert f"{out} could not be written ([Errno 27] File too large); its " in error
        assert len(error.splitlines()) == 1
        assert 0 < len(keyed(out)) < 24
        assert prepare(target, out, *options) == 0
    assert len(keyed(out)) == len(rows(out)) == 24
