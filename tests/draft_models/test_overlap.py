"""Training prompts that evaluation prompts are hidden in are found; what only sounds like them is not."""

import pytest

from draft_models.overlap import Overlap, words

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
        (LONG.replace("2", "1,500"), "math:1"),
        (LONG.replace("robe", "coat").replace("blue", "red").replace("brothers", "cousins"), "math:1"),
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
        "A robe takes some time. How many bolts in total does it take to make one of them for the king and the queen?",
    ],
)
def test_a_prompt_that_shares_less_is_kept(text):
    assert OVERLAP.find(text) is None


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not():
    passage, other = [f"w{index}" for index in range(30)], [f"x{index}" for index in range(15)]
    overlap = Overlap({"here": [" ".join(passage)]})
    assert overlap.find(" ".join([*other, *passage[5:18], "y"])) == "here"
    assert overlap.find(" ".join([*other, *passage[5:17], "y"])) is None


def test_half_of_the_shorter_texts_five_grams_are_enough_and_fewer_are_not():
    passage = [f"w{index}" for index in range(30)]
    overlap = Overlap({"here": [" ".join(passage)]})
    shared = [*passage[:9], *passage[20:29]]  # ten 5-grams of the passage
    assert overlap.find(" ".join([*shared, *"abcdef"])) == "here"  # of twenty
    assert overlap.find(" ".join([*shared, *"abcdefg"])) is None  # of 21
    assert overlap.find(" ".join(passage[:11])) is None  # too short to be compared so


def test_numbers_are_alike_however_they_are_written_and_however_many_there_are():
    assert words("Add 3, 4.5 and 1,000 to [1, 2, 3].") == ("add", "0", "and", "0", "to", "0")
    assert words("x1 = 2nd") == ("x1", "2nd")


def test_without_evaluation_prompts_nothing_overlaps():
    assert Overlap({}).find(LONG) is None
    assert Overlap({"empty": ["?!"]}).find("") is None
