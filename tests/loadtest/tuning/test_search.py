"""The search and the verdict, on a machine whose costs are known."""

import asyncio
import random

import pytest

from loadtest.errors import EndpointError, TuneError
from loadtest.tree import Tree
from loadtest.tuning.evidence import Evidence, Traffic, candidates
from loadtest.tuning.recording import Recording
from loadtest.tuning.search import Search, best_measured
from loadtest.tuning.verdict import decide
from tests.loadtest.tuning import made


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return Recording.read(made.growing(tmp_path_factory.mktemp("recording") / "record.jsonl"))


def traffic(recording, batch_sizes=None):
    return Traffic.of(recording, {}, batch_sizes or dict.fromkeys(made.STEP_S, 1.0))


def search(recording, costs_s=made.COSTS_S, most_runs=5, noise=0.0, batch_sizes=None, fails=()):
    measured, said, draw = [], [], random.Random(1)
    trees = candidates(recording.widest)

    async def measure(tree):
        measured.append(tree)
        if str(tree) in fails:
            raise EndpointError("the runtime ended with status 1")
        off = [1 + draw.gauss(0, noise) for _ in range(3)]
        return made.run(tree, costs_s, noise=off)

    plan = Search(recording, traffic(recording, batch_sizes), trees, most_runs)
    return asyncio.run(plan.run(measure, said.append)), measured, said


def true_speedup(recording, tree, costs_s=made.COSTS_S):
    tau = recording.tau(tree, {"math": 0.5, "code": 0.5})
    return 3 / sum(made.ratio(tree, batch_size, costs_s) / tau for batch_size in made.STEP_S)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    "costs_s", [made.COSTS_S, (0.002, 0.0005, 0.00002, 0.0002), (0.01, 0.002, 0.0005, 0.004), (0.03, 0.02, 0, 0.0001)]
)
def test_five_runs_find_a_tree_within_a_few_percent_of_the_best_of_hundreds(recording, costs_s, noise):
    found, measured, _ = search(recording, costs_s, noise=noise)
    trees = candidates(recording.widest)
    assert len(trees) > 150
    assert len(measured) <= 5
    best = max(true_speedup(recording, tree, costs_s) for tree in trees)
    assert true_speedup(recording, best_measured(found.evidence), costs_s) > best * (0.98 - noise)


GRID = ["1/1/2", "2/1/3", "3/1/4", "4/1/5", "5/1/6", "2/2/4", "3/2/6", "4/2/8", "5/2/8", "2/4/6", "2/4/8", "3/4/8"]
GRID += ["3/4/12", "4/4/8", "4/4/16", "5/4/8", "5/4/16", "4/3/10", "5/4/32"]


def test_three_of_nineteen_noisy_runs_choose_as_well_as_all_nineteen(recording):
    """A whole grid picks what noise favours; a search that looks at few trees smooths them through the surface."""
    by_search, by_grid = [], []
    for seed in range(20):
        draw = random.Random(seed)
        runs = {Tree.parse(tree): made.run(tree, noise=[draw.gauss(1, 0.05)]) for tree in GRID}

        async def measure(tree, runs=runs):
            return runs[tree]

        plan = Search(recording, traffic(recording), list(runs), 3)
        chosen = best_measured(asyncio.run(plan.run(measure, lambda _: None)).evidence)
        of_all = best_measured(Evidence.of(recording, traffic(recording), list(runs.values())))
        by_search.append(true_speedup(recording, chosen))
        by_grid.append(true_speedup(recording, of_all))
    assert sum(by_search) >= sum(by_grid) * 0.99


def test_the_search_ends_where_the_best_is_one_that_was_measured(recording):
    found, measured, said = search(recording, most_runs=50)
    assert len(measured) < 10
    assert len(set(measured)) == len(measured)
    assert len(said) == len(measured) - 1
    assert not found.interrupted


def test_a_tree_that_cannot_be_started_is_left_out(recording):
    found, measured, said = search(recording, fails=["2/1/3"])
    assert str(measured[0]) == "2/1/3"
    assert "2/1/3 is left out: the runtime ended with status 1" in said
    assert "2/1/3" not in map(str, found.evidence.runs)
    with pytest.raises(EndpointError):
        search(recording, most_runs=2, fails=[str(tree) for tree in candidates(recording.widest)])


def test_an_interrupted_search_keeps_what_was_measured(recording):
    async def measure(tree):
        if str(tree) != "2/1/3":
            raise asyncio.CancelledError
        return made.run(tree)

    plan = Search(recording, traffic(recording), candidates(recording.widest), 5)
    found = asyncio.run(plan.run(measure, lambda _: None))
    assert found.interrupted
    assert list(map(str, found.evidence.runs)) == ["2/1/3"]


def evidence_of(recording, costs_s, trees=("2/1/3", "5/4/16"), batch_sizes=None):
    return Evidence.of(recording, traffic(recording, batch_sizes), [made.run(tree, costs_s) for tree in trees])


def test_no_speculation_is_chosen_where_no_tree_pays(recording):
    evidence = evidence_of(recording, (0.2, 0.02, 0.001, 0.02))
    verdict = decide(evidence, candidates(recording.widest))
    assert verdict.chosen is None
    assert verdict.speedup.low <= 1
    assert verdict.policy is None
    assert not any(band.pays for band in verdict.bands)


def test_the_gateway_switches_between_the_last_batch_size_that_pays_and_the_first_that_does_not(recording):
    evidence = evidence_of(recording, (0.01, 0.004, 0.0001, 0.003), ["2/1/3", "5/4/16"], {1: 8, 4: 1, 8: 1})
    verdict = decide(evidence, candidates(recording.widest))
    assert [band.pays for band in verdict.bands] == [True, True, False]
    assert 4 <= verdict.policy.off_above < 8
    assert 0 < verdict.policy.on_below < verdict.policy.off_above


def test_the_weights_of_batch_sizes_move_the_choice(recording):
    costs_s = (0.004, 0.003, 0.0001, 0.004)
    small, _, _ = search(recording, costs_s, batch_sizes={1: 1, 8: 0.01})
    large, _, _ = search(recording, costs_s, batch_sizes={1: 0.01, 8: 1})
    assert best_measured(small.evidence).num_draft_tokens > best_measured(large.evidence).num_draft_tokens


def test_each_band_names_the_best_tree_there_and_intervals_hold_their_values(recording):
    evidence = evidence_of(recording, made.COSTS_S)
    trees = candidates(recording.widest)
    for band in decide(evidence, trees).bands:
        assert band.best == str(max(trees, key=lambda tree, at=band.batch_size: evidence.speedup(tree, at)))
        assert band.best_speedup.low <= band.best_speedup.value <= band.best_speedup.high
        assert band.best_speedup.value >= band.speedup.value
        assert band.best_speedup.value >= band.best_chain_speedup


def test_a_traffics_speedup_is_the_time_before_over_the_time_after(recording):
    evidence = evidence_of(recording, made.COSTS_S, batch_sizes={1: 3, 8: 1})
    tree = Tree.parse("2/1/3")
    after = 0.75 / evidence.speedup(tree, 1) + 0.25 / evidence.speedup(tree, 8)
    assert evidence.speedup(tree) == pytest.approx(1 / after)


def test_candidates_are_trees_that_sglang_runs_within_the_widest():
    found = candidates(Tree(3, 2, 8))
    assert all(Tree.parse(str(tree)) == tree and tree.num_draft_tokens <= 8 for tree in found)
    assert len(found) == len(set(found))
    assert {str(tree) for tree in candidates(Tree(3, 2, 8), chains=True)} == {"1/1/2", "2/1/3", "3/1/4"}


def test_a_task_that_was_not_recorded_is_refused(recording):
    with pytest.raises(TuneError, match=r"poetry: .* has no such task; it has math, code"):
        Traffic.of(recording, {"poetry": 1.0}, {1: 1.0})
