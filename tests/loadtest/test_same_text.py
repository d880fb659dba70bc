"""Whether two answers are the same but for numerics."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.client import Client
from loadtest.errors import EndpointError
from loadtest.prompts import Prompt
from loadtest.same_text import EPSILON, Token, compare, judge
from tests.loadtest.scripted_runtime import ScriptedRuntime, served, whole_answer

END = "<|im_end|>"


def tokens(*texts, near=None, far=None):
    """The reference's; `near` and `far` are alternatives to the last one."""
    found = [Token(text, -0.1, ((text, -0.1),)) for text in texts]
    others = [(near, -0.1 - EPSILON), (far, -0.11 - EPSILON)]
    known = tuple((text, logprob) for text, logprob in others if text is not None)
    return [*found[:-1], Token(texts[-1], -0.1, (*found[-1].alternatives, *known))]


@pytest.mark.parametrize(
    ("answer", "text", "reference", "verdict"),
    [
        ("a b", "a b", tokens("a", " b"), "same"),
        ("a b", "a b", tokens("a", " b", END), "same"),
        ("", "", tokens(END), "same"),
        ("a c", "a b", tokens("a", " b", near=" c"), "alike"),
        ("a c", "a b", tokens("a", " b", far=" c"), "different"),
        ("a c", "a b", tokens("a", " b"), "different"),
        ("a Al", "a 10", [*tokens("a", " ", near=" Al"), *tokens("1", "0")], "alike"),
        ("a Al", "a 10", [*tokens("a", " ", far=" Al"), *tokens("1", "0")], "different"),
        ("a Bo", "a 10", [*tokens("a", " ", near=" Al"), *tokens("1", "0")], "different"),
        ("a", "a b", tokens("a", " b", near=END), "alike"),
        ("a", "a b", tokens("a", " b", far=END), "different"),
        ("a b", "a", tokens("a", END, near=" b"), "alike"),
        ("a b", "a", tokens("a", END), "different"),
        ("a b", "a", tokens("a"), "different"),
        ("\U0001f600!", "\U0001f600", tokens("\ufffd", "\ufffd"), None),
    ],
)
def test_answers_part_by_numerics_or_in_earnest(answer, text, reference, verdict):
    assert judge(answer, text, reference) == verdict


@given(st.lists(st.text(min_size=1, max_size=4).filter(lambda text: "\ufffd" not in text), min_size=1, max_size=8))
def test_an_answer_without_alternatives_is_the_same_exactly_when_its_text_is(texts):
    whole = "".join(texts)
    assert judge(whole, whole, tokens(*texts)) == "same"
    assert judge(whole + "x", whole, tokens(*texts)) == "different"


def both(ours, reference):
    async def ask():
        async with Client(ours.url) as one, Client(reference.url) as other:
            return await compare(one, other, [Prompt(("Hello",)), Prompt(("Bye",))], "m", 8)

    return asyncio.run(ask())


def test_the_reference_alone_is_asked_for_logprobs():
    with served(ScriptedRuntime(), ScriptedRuntime()) as (ours, reference):
        found = both(ours, reference)
    assert (found.compared, found.same, found.different) == (2, 2, 0)
    assert all("logprobs" not in body for body in ours.asked)
    assert all(body["logprobs"] and body["temperature"] == 0 for body in reference.asked)


def test_a_difference_is_shown_where_it_begins():
    ours, theirs = (ScriptedRuntime(answer=whole_answer(["a", end])) for end in (" c", " b"))
    with served(ours, theirs):
        found = both(ours, theirs)
    assert found.different == 2
    assert found.example == "after 2 characters: 'c' where b has 'b'"


def test_a_reference_without_logprobs_is_one_sentence():
    silent = ScriptedRuntime(answer={"choices": [{"message": {"content": "x"}}]})
    with (
        served(ScriptedRuntime(), silent) as (ours, reference),
        pytest.raises(EndpointError, match=r"tells no logprobs: .*--same-text 0"),
    ):
        both(ours, reference)
