"""Prompt files are taken whole, or refused with the line that is wrong."""

import hashlib
import json

import pytest

from loadtest.errors import PromptsError
from loadtest.prompts import BUNDLED, load


def test_the_bundled_prompts_are_there_and_differ():
    bundled = load(None)
    assert bundled.name == BUNDLED
    assert len(bundled.prompts) == len(set(bundled.prompts)) == 32
    assert all(len(prompt.turns) == 1 for prompt in bundled.prompts)


def test_a_file_is_read_as_the_evaluation_files_are(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [{"id": "a-1", "category": "chat", "turns": ["Hello", "And now?"]}, {"turns": ["Ça va ?"]}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    loaded = load(path)
    assert loaded.name == "mine.jsonl"
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [prompt.turns for prompt in loaded.prompts] == [("Hello", "And now?"), ("Ça va ?",)]
    assert loaded.prompts[0].messages == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no prompt in it"),
        (b" \n\n", "no prompt in it"),
        (b'{"turns": ["a"]}\n{"turns": ["b"]', "line 2 is not JSON"),
        (b'{"turns": ["a"]}\n\n["b"]', 'line 3 has no "turns"'),
        (b'{"prompt": "a"}', 'line 1 has no "turns"'),
        (b'{"turns": []}', 'line 1 has no "turns"'),
        (b'{"turns": "a"}', 'line 1 has no "turns"'),
        (b'{"turns": ["a", 3]}', 'line 1 has no "turns"'),
        (b'{"turns": [" "]}', 'line 1 has no "turns"'),
        (b'{"turns": ["\xff"]}', "line 1 is not JSON"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, data, words):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(data)
    with pytest.raises(PromptsError, match=words) as refused:
        load(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PromptsError, match="No such file"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(PromptsError, match="Is a directory"):
        load(tmp_path)
