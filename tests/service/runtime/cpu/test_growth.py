"""Growing trees: what is kept is what the draft model holds likeliest, on paths that start at the root."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.cpu.growth import ROOT, Growth

PROBABILITY = st.floats(0.0, 1.0, width=32)


@st.composite
def grown(draw):
    """A tree of up to three steps with probabilities of anything, and every candidate's path and score as added."""
    branches = draw(st.integers(1, 4))
    tree, leaves, offered = Growth(branches), [()], []
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
        assert tree.leaf_tokens() == [path[-1] for path in likeliest(new, branches)]
        assert followed == [leaves.index(path[:-1]) for path in likeliest(new, branches)]
        leaves = likeliest(new, branches)
    return tree, offered


def score_of(offered, path):
    return dict(offered).get(path, 1.0)


def likeliest(offered, count):
    return [path for path, _ in sorted(offered, key=lambda one: -one[1])[:count]]


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
    assert sorted(paths[1:]) == sorted(likeliest(offered, size))


def test_one_branch_grows_a_chain():
    tree = Growth(1)
    for token, probability in ((7, 0.9), (8, 0.2), (9, 1.0)):
        assert tree.add([[probability]], [[token]]) == [0]
    assert tree.kept(3) == ([7, 8, 9], [ROOT, 0, 1, 2])
