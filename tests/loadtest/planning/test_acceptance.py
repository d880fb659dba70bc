"""Trees, and how many tokens they keep."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import BenchError, TreeError
from loadtest.planning.acceptance import CANDIDATES, read_acceptance, tau_of
from loadtest.tree import Tree

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_tau_of_a_chain_is_one_and_the_products():
    assert tau_of(Tree(3, 1, 4), [0.8, 0.5, 0.25]) == pytest.approx(1 + 0.8 + 0.8 * 0.5 + 0.8 * 0.5 * 0.25)


@given(SHARES)
def test_tau_lies_between_one_and_all_steps_and_wider_is_never_worse(by_position):
    for text in CANDIDATES:
        tree = Tree.parse(text)
        chain = Tree(tree.num_steps, 1, tree.num_steps + 1)
        assert 1 <= tau_of(chain, by_position) <= tau_of(tree, by_position) <= tree.num_steps + 1


@pytest.mark.parametrize(("text", "measured"), [("5/8/64", 4.68), ("8/8/64", 5.39)])
def test_a_tree_predicted_from_a_published_chain_is_within_three_percent(text, measured):
    """n-alpha from vllm-project/vllm issue 20780, tau from sgl-project/sglang pull request 4247: docs/plan.md."""
    n_alpha = [0.769, 0.769, 0.727, 0.674, 0.828, 0.583, 0.571]
    assert tau_of(Tree.parse(text), n_alpha) == pytest.approx(measured, rel=0.03)


def test_this_projects_own_tree_is_predicted_within_four_percent():
    """docs/results.md, all 196 prompts: the chain's n-alpha, and tau of 3/4/8."""
    assert tau_of(Tree(3, 4, 8), [0.65, 0.66, 0.70]) == pytest.approx(2.81, rel=0.04)


@pytest.mark.parametrize("text", ["3", "3/4", "3/x/8", "0/1/1", "3/1/9", "3/4/3"])
def test_what_is_no_tree_is_refused(text):
    with pytest.raises(TreeError):
        Tree.parse(text)


def test_a_measured_tree_overrules_the_one_predicted(tmp_path):
    path = tmp_path / "tau.json"
    path.write_text(json.dumps({"by_position": [0.7, 0.6], "3/4/8": 2.2, "4/2/6": 2.5}))
    acceptance = read_acceptance(str(path))
    assert acceptance[Tree(3, 4, 8)] == 2.2
    assert acceptance[Tree(4, 2, 6)] == 2.5
    assert acceptance[Tree(1, 1, 2)] == pytest.approx(1.7)
    assert read_acceptance("0.7,0.6")[Tree(1, 1, 2)] == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("{}", "no acceptance"),
        ('{"3/4/8": 9}', "between 1 and 4"),
        ('{"3/4/8": NaN}', "between 1 and 4"),
        ('{"by_position": [2]}', "between 0 and 1"),
        ('{"format": "aerie-comparison/1"}', "not a tree"),
    ],
)
def test_acceptance_that_cannot_be_is_refused_in_a_line(tmp_path, content, said):
    path = tmp_path / "tau.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=said):
        read_acceptance(str(path))


@pytest.mark.parametrize("text", ["nowhere.json", "1.2,0.5", "nan", "0.5,", "1.2.3"])
def test_acceptance_that_is_neither_numbers_nor_a_file_is_refused(text):
    with pytest.raises(BenchError):
        read_acceptance(text)
