"""Growing trees: what is kept is what the draft model holds likeliest, on paths that start at the root."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.cpu.growth import PASS_COST, ROOT, Growth, p_min_at, pays

PROBABILITY = st.floats(0.0, 1.0, width=32)


@st.composite
def grown(draw):
    """A tree of up to three steps with probabilities of anything, and every candidate's path and score as added."""
    branches, p_min = draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.1, 0.5]))
    tree, leaves, offered = Growth(branches, p_min), [()], []
    for step in range(draw(st.integers(1, 3))):
        rows = draw(
            st.lists(
                st.lists(PROBABILITY, min_size=branches, max_size=branches), min_size=len(leaves), max_size=len(leaves)
            )
        )
        tokens = [[100 * step + 10 * leaf + rank for rank in range(branches)] for leaf in range(len(leaves))]
        new = [
            ((*path, token), score)
            for path, likely, drafted in zip(leaves, rows, tokens, strict=True)
            for token, score in zip(drafted, (score_of(offered, path) * p for p in likely), strict=True)
        ]
        offered += new
        followed = tree.add(rows, tokens)
        assert tree.leaf_tokens() == [path[-1] for path in likeliest(new, branches, p_min)]
        assert followed == [leaves.index(path[:-1]) for path in likeliest(new, branches, p_min)]
        leaves = likeliest(new, branches, p_min)
    return tree, offered


def score_of(offered, path):
    return dict(offered).get(path, 1.0)


def likeliest(offered, count, p_min):
    return [path for path, score in sorted(offered, key=lambda one: -one[1])[:count] if score >= p_min]


@given(grown(), st.data())
@settings(max_examples=100, deadline=None)
def test_the_likeliest_candidates_are_kept_and_hang_together(made, data):
    tree, offered = made
    size = data.draw(st.integers(1, len(offered)))
    tokens, parents = tree.kept(size)
    paths = [()]
    for token, parent in zip(tokens, parents[1:], strict=True):
        assert parent < len(paths), "a parent comes before its children"
        paths.append((*paths[parent], token))
    assert parents[0] == ROOT
    assert sorted(paths[1:]) == sorted(likeliest(offered, size, tree.p_min))


def test_one_branch_grows_a_chain():
    tree = Growth(1)
    for token, probability in ((7, 0.9), (8, 0.2), (9, 1.0)):
        assert tree.add([[probability]], [[token]]) == [0]
    assert tree.kept(3) == ([7, 8, 9], [ROOT, 0, 1, 2])


@given(st.dictionaries(st.integers(1, 32), st.floats(0, 0.9)), st.integers(1, 40))
def test_a_row_holds_from_its_batch_size_on(rows, batch_size):
    p_min = p_min_at(rows, batch_size)
    begun = [size for size in rows if size <= batch_size]
    assert p_min == (rows[max(begun)] if begun else 0)


def test_a_pass_of_the_draft_pays_while_it_is_confident_or_many_share_it():
    def grown_to(*scores, p_min=0.05):
        trees = [Growth(1, p_min) for _ in scores]
        for tree, score in zip(trees, scores, strict=True):
            tree.add([[score]], [[0]])
        return trees

    assert pays(grown_to(0.9), 0.05)
    assert not pays(grown_to(0.2), 0.05)
    assert pays(grown_to(0.2, 0.2, 0.2), 0.05)
    assert not pays(grown_to(0.9, p_min=0.3), 0.3), f"a pass costs as much as {PASS_COST} nodes"
    assert pays(grown_to(0.01, p_min=0.0), 0.0), "without p_min a tree grows to its full depth"
    assert not pays(grown_to(0.01), 0.05), "nothing is left to continue"
