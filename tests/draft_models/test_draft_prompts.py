"""Variants are new prompts of the same kind, the same ones every time."""

import json
import re

import pytest

from scripts.draft_prompts import PASSAGE, main, variants

PASSAGE_TEXT = "Stars differ in colour because they differ in temperature. The hottest are blue, the coolest are red."


def record(source, prompt):
    return {"id": "p1", "source": source, "prompt": prompt}


@pytest.mark.parametrize("prompt", [f"Summarize: {PASSAGE_TEXT}", f"List the facts.\n\n{PASSAGE_TEXT}"])
def test_a_passage_gets_every_instruction(prompt):
    found = list(variants(record("openstax_passages/astronomy", prompt)))
    assert found == [template.format(PASSAGE_TEXT) for template in PASSAGE]


def test_a_word_problem_gets_other_numbers_of_as_many_digits():
    prompt = "Ann has 4 boxes of 120 pens and gives 15 away. How many are left?"
    found = list(variants(record("gsm8k_train", prompt)))
    assert len(set(found)) == 5
    shape = re.sub(r"\d", "#", prompt)
    assert {re.sub(r"\d", "#", variant) for variant in found} == {shape}
    assert prompt not in found


def test_a_task_is_asked_for_in_every_language_and_names_no_other():
    found = list(variants(record("mbpp_train_val", "Write a function to reverse a list. Use Python.")))
    assert "Write a function to reverse a list.\n\nUse Go." in found
    assert all(len(re.findall(r"Python|JavaScript|Java\b|C\+\+|\bGo\b", variant)) == 1 for variant in found)


def test_code_without_its_instruction_gets_others():
    found = list(variants(record("mbxp_train_ids", "Fill in the body of this function:\n\ndef add(a, b):\n")))
    assert found[0] == "Complete the code I provided.\n\ndef add(a, b):\n"


def test_other_kinds_stay_alone():
    assert not list(variants(record("clinc150_train", "What is 2 times 3?")))


def test_the_file_is_the_same_every_time_and_holds_no_prompt_twice(tmp_path):
    records = [record("gsm8k_train", "Add 3 and 12."), record("mbpp_train_val", "Sort 3 lists. Use Python.")]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(one | {"id": f"p{n}"}) + "\n" for n, one in enumerate(records)))
    for name in ("a", "b"):
        main(source, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len({one["prompt"] for one in found}) == len({one["id"] for one in found}) == len(found) > 8
