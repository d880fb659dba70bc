"""Prompts are read strictly, in every form that people have them in."""

import json
import sys

import pytest

from draft_models.errors import DataError
from draft_models.prompts import distinct, read_evaluation, read_source

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]


def write(tmp_path, *lines, name="prompts.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def read(path):
    return read_source(str(path)).conversations


def test_a_prompt_turns_and_messages_are_conversations(tmp_path):
    path = write(tmp_path, {"prompt": "one", "id": 7}, {"turns": ["one", "two"], "id": "b"}, {"messages": CHAT})
    first, second, third = read(path)
    assert [dict(message) for message in first.messages] == [{"role": "user", "content": "one"}]
    assert (first.key, second.key) == ("7", "b")
    assert second.messages == first.messages  # only the first turn is asked
    assert list(third.messages) == CHAT
    assert third.text == "one"


def test_the_answers_that_a_conversation_ends_with_are_dropped_in_either_format(tmp_path):
    answer = {"role": "assistant", "content": "two"}
    follow_up = [*CHAT, answer, {"role": "user", "content": "three"}]
    sharegpt = [
        {"from": {"assistant": "gpt", "user": "human"}.get(message["role"], "system"), "value": message["content"]}
        for message in [*follow_up, answer]
    ]
    path = write(tmp_path, {"messages": [*CHAT, answer, answer]}, {"conversations": sharegpt})
    first, second = read(path)
    assert list(first.messages) == CHAT
    assert list(second.messages) == follow_up
    assert second.text == "one\nthree"


def test_a_key_without_an_id_is_the_prompts_own_wherever_it_stands(tmp_path):
    (first,) = read(write(tmp_path, {"prompt": "one"}))
    _, second = read(write(tmp_path, {"prompt": "two"}, {"prompt": "one"}, name="other.jsonl"))
    assert first.key == second.key


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ({"text": "?"}, "no prompt; a line has"),
        ({"prompt": " "}, "no prompt"),
        ({"turns": []}, "no prompt"),
        ({"prompt": "one", "id": [1]}, r"id \[1\] is neither text nor a number"),
        ({"messages": "one"}, "messages is no list"),
        ({"messages": [{"role": "robot", "content": "one"}]}, "messages is no list"),
        ({"messages": [{"role": "user", "content": None}]}, "messages is no list"),
        ({"messages": CHAT[:1]}, "the last message that is not an assistant's is not a user's"),
        ({"messages": [*CHAT, CHAT[0], {"role": "assistant", "content": "two"}]}, "is not a user's"),
        ({"messages": []}, "is not a user's"),
        ({"conversations": [{"from": "robot", "value": "one"}]}, "nor conversations of"),
        ({"conversations": [{"from": "human"}]}, "nor conversations of"),
        ({"conversations": "one"}, "nor conversations of"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, reason):
    with pytest.raises(DataError, match=rf"prompts\.jsonl:2: .*{reason}"):
        read(write(tmp_path, {"prompt": "one"}, line))


def test_a_line_ends_where_json_says_not_at_every_odd_space(tmp_path):
    path = write(tmp_path, json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False), {"prompt": "d"})
    assert [one.text for one in read(path)] == ["a\u2028b\x85c", "d"]


def test_the_same_prompt_is_asked_once_and_one_id_for_two_is_an_error(tmp_path):
    same = write(tmp_path, {"prompt": "one", "id": 1}, {"prompt": "one", "id": 2}, {"prompt": "two", "id": 3})
    assert [one.key for one in distinct([read_source(str(same)), read_source(str(same))])] == ["1", "3"]
    twice = write(tmp_path, {"prompt": "one", "id": 1}, {"prompt": "two", "id": 1}, name="twice.jsonl")
    with pytest.raises(DataError, match=r"twice\.jsonl:2: id '1' is that of .*twice\.jsonl:1 too; give each its own"):
        distinct([read_source(str(twice))])


def test_a_missing_file_and_an_empty_one_are_errors(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="the file is empty"):
        read(write(tmp_path, ""))


def test_a_dataset_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"someone/prompts: no such file, .*pip install datasets"):
        read("someone/prompts")


def test_a_dataset_is_read_as_a_file_is(monkeypatch):
    class Datasets:
        @staticmethod
        def load_dataset(name, split):
            if (name, split) not in {("someone/prompts", "train"), ("someone/prompts", "train_sft[:2]")}:
                raise FileNotFoundError("Dataset doesn't exist on the Hub\nor cannot be accessed")
            return [{"prompt": "one"}, {"prompt": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    assert [one.place for one in read("someone/prompts")] == ["someone/prompts:1", "someone/prompts:2"]
    assert [one.text for one in read("someone/prompts:train_sft[:2]")] == ["one", "two"]
    with pytest.raises(DataError, match=r"nowhere: neither a file nor a dataset: Dataset doesn't exist on the Hub$"):
        read("nowhere")


def test_evaluation_prompts_are_read_with_all_their_turns(tmp_path):
    path = write(tmp_path, {"turns": ["one", "two"]}, {"prompt": "three"}, {"messages": CHAT}, name="bench.jsonl")
    found = read_evaluation(path)
    assert [(prompt.place, prompt.turns) for prompt in found] == [
        (f"{path}:1", ("one", "two")),
        (f"{path}:2", ("three",)),
        (f"{path}:3", ("one",)),
    ]
    assert {prompt.task for prompt in found} == {"bench"}
    assert [prompt.messages[-1]["content"] for prompt in found] == ["one", "three", "one"]  # the first turn is asked
    assert list(found[2].messages) == CHAT
    with pytest.raises(DataError, match=r"bench\.jsonl:1: no prompt"):
        read_evaluation(write(tmp_path, {"text": "?"}, name="bench.jsonl"))
