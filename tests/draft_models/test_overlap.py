"""Training prompts that evaluation prompts are hidden in are found; what only sounds like them is not."""

import pytest

from draft_models.overlap import Overlap

LONG = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take to make "
    "three of them for the brothers?"
)
MEDIUM = "Compose an engaging travel blog post about recent Hawaii trips."  # 10 words
SHORT = "What is photosynthesis?"
OVERLAP = Overlap({"math:1": [LONG], "writing:1": [SHORT, MEDIUM]})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (LONG, "math:1"),
        (LONG.upper().replace(",", " ;").replace(" ", "\n"), "math:1"),
        (f"Solve this. {LONG} Think step by step.", "math:1"),
        ("I say: half that much white fiber -- how many bolts in total does it take? Tell me.", "math:1"),
        (f"Please: {MEDIUM.lower()} Thanks!", "writing:1"),
        ("what is PHOTOSYNTHESIS", "writing:1"),
    ],
)
def test_a_prompt_that_shares_a_long_run_of_words_is_named(text, name):
    assert OVERLAP.find(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Explain what is photosynthesis to a child",  # too short to be told from chance inside another text
        "How many bolts in total does it take to make a bridge?",  # 10 words in common
        "Compose an engaging travel blog post about recent Iceland trips.",
        " ".join(reversed(LONG.split())),
    ],
)
def test_a_prompt_that_shares_less_is_kept(text):
    assert OVERLAP.find(text) is None


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not():
    words = [f"w{index}" for index in range(30)]
    overlap = Overlap({"here": [" ".join(words)]})
    assert overlap.find(" ".join(["x", *words[5:18], "y"])) == "here"
    assert overlap.find(" ".join(["x", *words[5:17], "y"])) is None


def test_without_evaluation_prompts_nothing_overlaps():
    assert Overlap({}).find(LONG) is None
    assert Overlap({"empty": ["?!"]}).find("") is None
