"""Losslessness: whatever the draft proposes, the output is the target's own."""

import pytest
import torch

from draft_models.decode import decode, decode_plain, greedy, sampler
from draft_models.errors import ConfigError
from draft_models.tree import Tree, TreeShape, accepted_path, grow
from tests.draft_models import tiny

TREES = ["1/1/2", "3/1/4", "5/1/6", "2/3/5", "3/4/8", "3/4/37", "4/2/12"]


@pytest.fixture(scope="module")
def models():
    target = tiny.target()
    return target, tiny.draft(target)


@pytest.mark.parametrize("shape", TREES)
def test_greedy_output_is_exactly_that_of_plain_decoding(models, shape):
    target, draft = models
    for seed in range(3):
        prompt = torch.randint(2, tiny.VOCAB, (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        plain = decode_plain(target, prompt, 24, {1})
        found = decode(target, draft, prompt, 24, {1}, TreeShape.parse(shape))
        assert found.ids == plain.ids
        assert sum(found.correct_drafts) + len(found.correct_drafts) + 1 == len(found.ids)


def test_a_draft_that_knows_the_target_is_accepted_and_still_changes_nothing(models):
    """A tree built from the target's own continuation: every node of one path is accepted."""
    target, _ = models
    plain = decode_plain(target, [3, 4, 5], 6, set()).ids
    tree = Tree.of(plain[:4], [-1, 0, 1, 2])
    assert accepted_path(tree, plain[1:5]) == [0, 1, 2, 3]


def test_generation_ends_at_the_first_end_of_sequence(models):
    target, draft = models
    plain = decode_plain(target, [3, 4, 5], 20, set()).ids
    eos = {plain[6]}
    expected = plain[: plain.index(plain[6]) + 1]
    assert decode_plain(target, [3, 4, 5], 20, eos).ids == expected
    assert decode(target, draft, [3, 4, 5], 20, eos, TreeShape(3, 4, 8)).ids == expected


def test_sampled_output_has_the_targets_distribution():
    """Chi-square of three sampled tokens, most of them out of trees, against the target's exact probabilities."""
    target = tiny.target(seed=3, spread=0.25)
    draft, prompt, temperature, draws = tiny.draft(target), [3, 4, 5], 0.7, 600
    choose = sampler(temperature, seed=0)
    decoded = [decode(target, draft, prompt, 3, set(), TreeShape(2, 8, 40), choose) for _ in range(draws)]
    assert sum(sum(one.correct_drafts) for one in decoded) > draws / 10  # the trees do propose what is drawn
    expected = draws * joint_probability(target, prompt, temperature, 3)
    observed = torch.zeros_like(expected)
    for one in decoded:
        first, second, third = one.ids
        observed[(first * tiny.VOCAB + second) * tiny.VOCAB + third] += 1
    # sequences in order of their probability, in bins of about 15 expected draws
    order = expected.argsort(descending=True)
    bins = (expected[order].cumsum(0) / 15).floor().long().clamp(max=draws // 15 - 1).unique(return_inverse=True)[1]
    sums = [
        torch.zeros(int(bins.max()) + 1, dtype=torch.double).index_add(0, bins, x[order]) for x in (observed, expected)
    ]
    chi_square = ((sums[0] - sums[1]) ** 2 / sums[1]).sum().item()
    degrees = len(sums[0]) - 1
    assert degrees > 15
    assert chi_square < degrees + 3 * (2 * degrees) ** 0.5


def joint_probability(target, prompt, temperature, tokens):
    """[VOCAB ** tokens] of every continuation, one forward per length."""
    prefixes, joint = torch.tensor([prompt]), torch.ones(1, dtype=torch.double)
    every = torch.arange(tiny.VOCAB)
    for _ in range(tokens):
        final = target.features(prefixes).final_BTD[:, -1]
        following = (target.logits(final) / temperature).double().softmax(-1)
        joint = (joint[:, None] * following).flatten()
        prefixes = torch.cat([prefixes.repeat_interleave(tiny.VOCAB, 0), every.repeat(len(prefixes))[:, None]], dim=1)
    return joint


def test_the_tree_mask_is_the_ancestor_relation():
    tree = Tree.of([9, 1, 2, 3, 4], [-1, 0, 0, 1, 3])
    assert tree.depth_Q == [0, 1, 1, 2, 3]
    assert tree.mask_QQ.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_a_tree_grows_where_confidence_is_and_keeps_the_likeliest_nodes():
    follow = {7: [0.6, 0.3, 0.1], 0: [0.5, 0.4, 0.1], 1: [0.9, 0.05, 0.05], 2: [0.34, 0.33, 0.33]}
    row = lambda token: torch.tensor(follow[token]).log()  # noqa: E731

    def expand(tokens, parents, depth):
        return torch.stack([row(token) for token in tokens.tolist()])

    tree = grow(7, row(7), expand, lambda ids: ids, TreeShape(2, 2, 5))
    # values: 0 .6, 1 .3, then 0-0 .30, 0-1 .24, 1-0 .27, 1-1 .015: the four best
    assert list(zip(tree.token_Q, tree.parent_Q, strict=True)) == [(7, -1), (0, 0), (1, 0), (0, 1), (0, 2)]


def test_growing_keeps_every_parent():
    torch.manual_seed(0)
    for shape in ("3/4/8", "4/3/9", "5/2/17"):
        tree = grow(
            0,
            torch.randn(20).log_softmax(-1),
            lambda tokens, parents, depth: torch.randn(len(tokens), 20).log_softmax(-1),
            lambda ids: ids,
            TreeShape.parse(shape),
        )
        assert len(tree.token_Q) == int(shape.split("/")[2])
        assert all(parent < node for node, parent in enumerate(tree.parent_Q))


@pytest.mark.parametrize("text", ["3/4", "a/b/c", "3/4/3", "3/4/38", "0/1/1"])
def test_a_tree_that_cannot_be_is_one_clear_error(text):
    with pytest.raises(ConfigError, match="tree"):
        TreeShape.parse(text)


def test_greedy_takes_the_first_of_equals():
    assert greedy(torch.tensor([[1.0, 3.0, 3.0]])) == [1]
