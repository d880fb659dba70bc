"""Files, lengths and mixes become one sequence of prompts, the same for the same seed."""

import json
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import PromptsError
from loadtest.prompts import Prompt, PromptSource, load
from loadtest.prompts.source import leaving
from loadtest.prompts.synthetic import Lengths, synthetic


@pytest.fixture
def tasks(tmp_path):
    paths = tmp_path / "chat.jsonl", tmp_path / "code.jsonl"
    for path, count in zip(paths, (2, 3), strict=True):
        lines = [{"turns": [f"{path.stem} {number}", "And then?"], "category": "any"} for number in range(count)]
        path.write_text("\n".join(map(json.dumps, lines)))
    return paths


def turns(found):
    return [prompt.turns[0] for prompt in found.prompts]


def test_without_anything_they_are_the_bundled_ones():
    assert PromptSource().prompts() == load(None)


def test_a_file_is_as_it_is(tasks):
    found = PromptSource((tasks[0],)).prompts()
    assert found == load(tasks[0])
    assert {prompt.task for prompt in found.prompts} == {"any"}


def test_several_files_are_tasks_and_come_in_turns(tasks):
    found = PromptSource(tasks).prompts()
    assert turns(found) == ["chat 0", "code 0", "chat 1", "code 1", "code 2"]
    assert [prompt.task for prompt in found.prompts] == ["chat", "code", "chat", "code", "code"]
    assert found.name == "chat.jsonl code.jsonl"


def test_a_system_prompt_is_before_every_conversation_and_in_the_digest(tasks):
    found, plain = PromptSource((tasks[0],), system="Be brief.").prompts(), PromptSource((tasks[0],)).prompts()
    assert all(prompt.messages[0] == {"role": "system", "content": "Be brief."} for prompt in found.prompts)
    assert found.sha256 != plain.sha256


def test_a_conversation_grows_by_its_answers_until_its_last_turn():
    first = Prompt(("Hello", "And?"), system="Be brief.")
    second = first.after("Hi.")
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in second.messages] == ["Be brief.", "Hello", "Hi.", "And?"]
    assert (first.turn, second.turn, second.after("Bye.")) == (1, 2, None)


@settings(max_examples=20)
@given(st.integers(1, 100), st.integers(1, 300), st.integers())
def test_synthetic_prompts_have_as_many_words_and_differ(prompt_tokens, answer_tokens, seed):
    lengths = Lengths(prompt_tokens, answer_tokens)
    made = synthetic(lengths, seed)
    assert made == synthetic(lengths, seed)
    assert all(len(prompt.turns[0].split()) == prompt_tokens for prompt in made)
    assert {prompt.answer_tokens for prompt in made} == {answer_tokens}
    if prompt_tokens >= 16:
        assert len(set(made)) == len({prompt.turns for prompt in made}) == len(made)


@pytest.mark.parametrize("text", ["", "512", "512:", ":128", "0:1", "1:0", "-1:1", "1:2:3", "1.5:2", "1e3:1", "٣:1"])
def test_lengths_are_two_whole_numbers(text):
    with pytest.raises(PromptsError, match="as in 512:128"):
        Lengths.parse(text)


def test_a_mix_draws_tasks_by_their_weights(tmp_path, tasks):
    mix = tmp_path / "mix.yaml"
    mix.write_text("tasks:\n- {file: chat.jsonl, weight: 3}\n- {synthetic: '20:5', name: made, weight: 1}\n")
    found = PromptSource(mix=mix, seed=1).prompts()
    assert found == PromptSource(mix=mix, seed=1).prompts()
    assert found.sha256 != PromptSource(mix=mix, seed=2).prompts().sha256
    counts = Counter(prompt.task for prompt in found.prompts)
    assert set(counts) == {"chat", "made"}
    assert counts["chat"] / counts["made"] == pytest.approx(3, rel=0.2)
    assert {prompt.answer_tokens for prompt in found.prompts if prompt.task == "made"} == {5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: []", "at least 1 item"),
        ("tasks: [{weight: 1}]", "name a file, or synthetic lengths"),
        ("tasks: [{file: a, synthetic: '1:1'}]", "name a file, or synthetic lengths"),
        ("tasks: [{file: chat.jsonl, weight: 0}]", "greater than 0"),
        ("tasks: [{file: chat.jsonl, share: 1}]", "Extra inputs"),
        ("tasks: [{file: none.jsonl}]", "No such file"),
        ("tasks: [{synthetic: '5'}]", "as in 512:128"),
        ("tasks: [", "not YAML"),
        ("", "not a mix"),
    ],
)
def test_a_broken_mix_is_refused_in_one_line(tmp_path, tasks, text, words):
    mix = tmp_path / "mix.yaml"
    mix.write_text(text)
    with pytest.raises(PromptsError, match=words) as refused:
        PromptSource(mix=mix).prompts()
    assert "\n" not in str(refused.value)


@given(st.floats(0, 1), st.integers())
def test_a_seeded_share_leaves_at_a_part_of_the_answer(share, seed):
    first, again = (list(islice(leaving([Prompt(("a",)), Prompt(("b",))], share, seed), 400)) for _ in range(2))
    assert first == again
    assert [prompt.turns[0] for prompt in first] == ["a", "b"] * 200
    gone = [prompt.leaves_at for prompt in first if prompt.leaves_at is not None]
    assert len(gone) / 400 == pytest.approx(share, abs=0.13)
    assert all(0 <= at < 1 for at in gone)
