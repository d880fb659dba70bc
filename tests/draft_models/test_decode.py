"""Losslessness: whatever the draft proposes, the output is the target's own."""

from collections import Counter

import pytest
import torch

from draft_models.decode import DraftSession, decode, decode_plain
from draft_models.errors import ConfigError
from draft_models.tree import Tree, TreeShape, grow
from draft_models.verify import GREEDY, Sampling
from tests.draft_models import tiny
from tests.draft_models.branches import outcomes

TREES = ["1/1/2", "3/1/4", "5/1/6", "2/3/5", "3/4/8", "3/4/37", "4/2/12"]


@pytest.fixture(scope="module")
def models():
    target = tiny.target()
    return target, tiny.draft(target)


@pytest.mark.parametrize(
    ("shape", "rule"), [*((shape, "target-draw") for shape in TREES), ("5/1/6", "rejection"), ("3/4/8", "rejection")]
)
def test_greedy_output_is_exactly_that_of_plain_decoding(models, shape, rule):
    target, draft = models
    for seed in range(3):
        prompt = torch.randint(2, tiny.VOCAB, (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        plain = decode_plain(target, prompt, 24, {1})
        found = decode(target, draft, prompt, 24, {1}, TreeShape.parse(shape), GREEDY, rule)
        assert found.ids == plain.ids
        assert sum(found.correct_drafts) + len(found.correct_drafts) + 1 == len(found.ids)


@pytest.mark.parametrize("shape", TREES)
def test_with_the_same_seed_the_targets_draws_are_those_of_plain_decoding(models, shape):
    target, draft = models
    for seed in range(3):
        plain = decode_plain(target, [3, 4, 5], 16, {1}, Sampling.seeded(0.9, seed))
        found = decode(target, draft, [3, 4, 5], 16, {1}, TreeShape.parse(shape), Sampling.seeded(0.9, seed))
        assert found.ids == plain.ids


def test_generation_ends_at_the_first_end_of_sequence(models):
    target, draft = models
    plain = decode_plain(target, [3, 4, 5], 20, set()).ids
    eos = {plain[6]}
    expected = plain[: plain.index(plain[6]) + 1]
    assert decode_plain(target, [3, 4, 5], 20, eos).ids == expected
    assert decode(target, draft, [3, 4, 5], 20, eos, TreeShape(3, 4, 8)).ids == expected


@torch.no_grad()
def test_a_drawn_chain_is_drawn_from_the_drafts_distribution_over_the_tokens_it_knows(models):
    target, draft = models
    session, sampling = DraftSession(draft, target.embed_VD), Sampling.seeded(0.5, 0)
    logits = torch.randn(tiny.DRAFT_VOCAB, generator=torch.Generator().manual_seed(0))
    proposal = session.proposal(sampling, logits.log_softmax(-1))
    torch.testing.assert_close(proposal[draft.t2d], (logits / 0.5).softmax(-1))
    assert proposal[~draft.t2d].count_nonzero() == 0
    tree = session.propose([3, 4], torch.randn(2, 3 * 32), TreeShape.chain(4), sampling)
    assert tree.parent_Q == [-1, 0, 1, 2, 3]
    assert all(tree.draft_prob_QV[node, tree.token_Q[node]] > 0 for node in range(1, 5))


@pytest.mark.parametrize(("rule", "shape"), [("target-draw", "1/1/2"), ("rejection", "1/1/2")])
def test_sampled_output_has_exactly_the_targets_distribution(rule, shape):
    """Over every draw that the whole decoder can make, with three tokens, two of them known to the draft."""
    target = tiny.target(seed=2, vocab_size=3, eos_token_id=2)
    draft, prompt, temperature = tiny.draft(target, draft_vocab_size=2), [1, 2], 0.8
    accepted = 0

    def text(draw):
        nonlocal accepted
        found = decode(target, draft, prompt, 3, set(), TreeShape.parse(shape), Sampling(temperature, draw), rule)
        accepted += sum(found.correct_drafts)
        return tuple(found.ids)

    found = outcomes(text)
    expected = joint_probability(target, prompt, temperature, 3).view(3, 3, 3)
    assert accepted
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    for one, share in found.items():
        assert share == pytest.approx(expected[one].item(), abs=1e-5)


@pytest.mark.parametrize(("rule", "shape"), [("target-draw", "2/8/40"), ("rejection", "2/1/3")])
def test_longer_sampled_output_has_the_targets_distribution(rule, shape):
    """Chi-square of three sampled tokens, most of them out of trees, against the target's exact probabilities."""
    target = tiny.target(seed=3, spread=0.25)
    draft, prompt, temperature, draws = tiny.draft(target), [3, 4, 5], 0.7, 300
    sampling = Sampling.seeded(temperature, seed=0)
    decoded = [decode(target, draft, prompt, 3, set(), TreeShape.parse(shape), sampling, rule) for _ in range(draws)]
    assert sum(sum(one.correct_drafts) for one in decoded) > draws / 100  # the drafts are sometimes what is drawn
    expected = draws * joint_probability(target, prompt, temperature, 3)
    observed = torch.zeros_like(expected)
    for (first, second, third), count in Counter(tuple(one.ids) for one in decoded).items():
        observed[(first * tiny.VOCAB + second) * tiny.VOCAB + third] = count
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
    every = torch.arange(target.config.vocab_size)
    for _ in range(tokens):
        final = target.features(prefixes).final_BTD[:, -1]
        following = (target.logits(final) / temperature).double().softmax(-1)
        joint = (joint[:, None] * following).flatten()
        prefixes = torch.cat([prefixes.repeat_interleave(len(every), 0), every.repeat(len(prefixes))[:, None]], dim=1)
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


def test_decoding_makes_no_tensor_on_an_unnamed_device(models):
    """Stand-in for a GPU: with another default device, everything still has to be where the models are."""
    target, draft = models
    expected = decode_plain(target, [3, 4, 5], 8, set()).ids
    with torch.device("meta"):
        for rule, shape in (("target-draw", "3/4/8"), ("rejection", "3/1/4"), ("rejection", "3/4/8")):
            found = decode(target, draft, [3, 4, 5], 8, set(), TreeShape.parse(shape), GREEDY, rule)
            assert found.ids == expected
