"""The cost surface: what it finds again, and what it does not invent."""

import random

import pytest

from loadtest.tree import Tree
from loadtest.tuning.surface import GUESS, Observed, Surface, non_negative_least_squares
from tests.loadtest.tuning import made

TREES = [Tree.parse(text) for text in ("1/1/2", "2/1/3", "3/1/4", "3/4/8", "5/4/16", "6/8/48")]


def observed(trees, costs_s=made.COSTS_S):
    return [Observed(tree, batch, made.ratio(tree, batch, costs_s)) for tree in trees for batch in made.STEP_S]


def test_three_unlike_trees_tell_the_cost_of_all_others():
    surface = Surface.fit(observed([TREES[1], TREES[3], TREES[4]]), made.STEP_S)
    for tree in TREES:
        for batch_size in made.STEP_S:
            assert surface.ratio(tree, batch_size) == pytest.approx(made.ratio(tree, batch_size), rel=0.03)


def test_two_trees_tell_it_within_a_tenth():
    surface = Surface.fit(observed([TREES[1], TREES[4]]), made.STEP_S)
    for tree in TREES[:-1]:
        for batch_size in made.STEP_S:
            assert surface.ratio(tree, batch_size) == pytest.approx(made.ratio(tree, batch_size), rel=0.1)


def test_without_a_measured_tree_it_is_the_guess():
    surface = Surface.fit([], made.STEP_S)
    assert surface.costs_s == pytest.approx([share * made.STEP_S[1] for share in GUESS.values()])


def test_a_cost_is_never_negative_and_a_larger_tree_never_cheaper():
    cheaper = [Observed(TREES[0], 1, 1.5), Observed(TREES[4], 1, 1.1)]
    surface = Surface.fit(cheaper, {1: 0.07})
    assert min(surface.costs_s) >= 0
    ratios = [surface.ratio(Tree(steps, 4, 16), 1) for steps in range(2, 7)]
    assert ratios == sorted(ratios)


def test_least_squares_that_may_not_be_negative_are_no_worse_than_any_other_point():
    draw = random.Random(0)
    for _ in range(20):
        rows = [[draw.gauss(0, 1) for _ in range(3)] for _ in range(6)]
        wanted = [draw.gauss(0, 1) for _ in range(6)]

        def squares(point, rows=rows, wanted=wanted):
            predicted = [sum(a * b for a, b in zip(row, point, strict=True)) for row in rows]
            return sum((one - other) ** 2 for one, other in zip(predicted, wanted, strict=True))

        best = non_negative_least_squares(rows, wanted)
        assert min(best) >= 0
        for _ in range(50):
            other = [max(0, value + draw.gauss(0, 0.3)) for value in best]
            assert squares(best) <= squares(other) + 1e-9


def test_an_exact_solution_is_found():
    rows = [[1, 0, 2], [0, 3, 1], [1, 1, 1], [2, 0, 1]]
    right = [sum(a * b for a, b in zip(row, (1, 2, 0.5), strict=True)) for row in rows]
    assert non_negative_least_squares(rows, right) == pytest.approx([1, 2, 0.5])
