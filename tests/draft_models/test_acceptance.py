"""tau and n-alpha, as docs/sglang.md defines them."""

import pytest

from draft_models.acceptance import Acceptance, alpha_intervals, mean_tau_interval, tau_interval, walk


def test_tau_is_one_plus_correct_drafts_per_verify_pass():
    assert Acceptance.of([0, 3, 1, 0]).tau == 2
    assert Acceptance().tau == 1
    assert (Acceptance.of([0, 3]) + Acceptance.of([1, 0])) == Acceptance.of([0, 3, 1, 0])


def test_n_alpha_is_conditional_on_the_first_n():
    assert Acceptance.of([0, 0, 1, 2, 2]).alphas(4) == [3 / 5, 2 / 3, 0.0, None]


def test_a_walk_moves_one_more_than_was_correct():
    assert walk([9, 2, 0, 0, 1, 0, 5], start=1, stop=6) == [2, 1]


def test_the_interval_holds_tau_and_narrows_with_prompts():
    few = [Acceptance.of([0, 2]), Acceptance.of([1, 1, 3])] * 2
    low, high = tau_interval(few)
    assert low <= sum(few, Acceptance()).tau <= high
    narrow = tau_interval(few * 25)
    assert narrow[1] - narrow[0] < high - low
    assert tau_interval([Acceptance.of([1])] * 3) == pytest.approx((2, 2))


def test_the_interval_of_a_mean_over_tasks_knows_how_much_each_task_varies():
    certain, varied = [Acceptance.of([2])] * 20, [Acceptance.of([count % 4]) for count in range(20)]
    low, high = mean_tau_interval([certain, varied])
    alone = tau_interval(varied)
    assert low < (3 + 2.5) / 2 < high
    assert high - low == pytest.approx((alone[1] - alone[0]) / 2, rel=0.1)
    assert mean_tau_interval([certain, certain[:1]]) is None


def test_an_interval_of_n_alpha_is_there_where_n_was_reached():
    prompts = [Acceptance.of([0, 1, 2]), Acceptance.of([1, 1]), Acceptance.of([0, 0, 2])]
    alphas, intervals = sum(prompts, Acceptance()).alphas(4), alpha_intervals(prompts, 4)
    for alpha, interval in zip(alphas[:3], intervals[:3], strict=True):
        assert interval[0] <= alpha <= interval[1]
    assert (alphas[3], intervals[3]) == (None, None)
    assert alpha_intervals([Acceptance.of([0, 1])] * 5, 1) == [pytest.approx((0.5, 0.5))]


def test_one_prompt_says_nothing_about_others():
    assert tau_interval([Acceptance.of([3, 4])]) is None
    assert alpha_intervals([Acceptance.of([3, 4])], 2) == [None, None]


def test_the_last_token_of_an_answer_is_a_bonus_token_and_no_draft():
    """Two tokens are left: one may be a draft, and the target adds the other."""
    assert walk([0, 0, 2, 1], start=2, stop=4) == [1]
    assert walk([0, 0, 0, 5], start=2, stop=4) == [0, 0]
