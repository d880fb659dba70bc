"""Both rules are exact: summed over every possible draw, what comes out has the target's distribution."""

import math
from collections import defaultdict
from functools import cache
from itertools import product

import pytest
import torch

from draft_models.tree import Tree, TreeShape, draw_chain, grow
from draft_models.verify import GREEDY, Sampling, rejection, target_draw, verify
from tests.draft_models.branches import outcomes

TOKENS, LENGTH = 3, 3


@cache
def language(name, prefix):
    """A language model as a table: some distribution over the tokens for every prefix, now and then with a zero."""
    seed = sum((token + 1) * 10**place for place, token in enumerate((name == "draft", *prefix)))
    generator = torch.Generator().manual_seed(seed)
    prob = torch.rand(TOKENS, generator=generator, dtype=torch.double)
    if len(prefix) % 2 and name == "draft":
        prob[sum(prefix) % TOKENS] = 0  # a token the draft does not know
    return prob / prob.sum()


def chain(prefix, draw):
    """Section 2.1: two tokens, each drawn from the draft."""
    path = list(prefix)

    def expand(token, parent, depth):
        path.append(int(token))
        return language("draft", tuple(path))[None].log()

    first = language("draft", prefix).log()
    return draw_chain(prefix[-1], first, expand, lambda log_prob: log_prob.exp(), draw, 2)


def siblings(prefix, draw, replace):
    """SpecInfer: two draws after the root, and one after the first of them."""
    tokens, parents, draft_probs = [prefix[-1]], [-1], [torch.zeros(TOKENS, dtype=torch.double)]
    prob = language("draft", prefix)
    for _ in range(2 if replace else min(2, int(prob.count_nonzero()))):
        draft_probs.append(prob / prob.sum())
        tokens.append(draw(draft_probs[-1]))
        parents.append(0)
        prob = prob if replace else prob.index_fill(0, torch.tensor(tokens[-1]), 0)
    draft_probs.append(language("draft", (*prefix, tokens[1])))
    tokens.append(draw(draft_probs[-1]))
    parents.append(1)
    return Tree.of(tokens, parents, torch.stack(draft_probs))


def likeliest(prefix, draw):
    """EAGLE-2: chosen, not drawn."""
    paths = [prefix] * 2

    def expand(tokens, parents, depth):
        previous = list(paths)
        paths[:] = [(*previous[parent], token) for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True)]
        return torch.stack([language("draft", path) for path in paths]).log()

    return grow(prefix[-1], language("draft", prefix).log(), expand, lambda ids: ids, TreeShape(2, 2, 4))


def likelier_draw(prefix, draw):
    """What must not be done: of two draws only the likelier one is kept."""
    tree = siblings(prefix, draw, replace=True)
    kept = max((1, 2), key=lambda node: language("draft", prefix)[tree.token_Q[node]])
    return Tree.of([prefix[-1], tree.token_Q[kept]], [-1, 0], tree.draft_prob_QV[[0, kept]])


PROPOSALS = {
    "chain": chain,
    "with replacement": lambda prefix, draw: siblings(prefix, draw, replace=True),
    "without replacement": lambda prefix, draw: siblings(prefix, draw, replace=False),
    "likeliest": likeliest,
}


def target_prob(tree, prefix):
    """[Q, V]."""
    paths = [prefix]
    for token, parent in list(zip(tree.token_Q, tree.parent_Q, strict=True))[1:]:
        paths.append((*paths[parent], token))
    return torch.stack([language("target", path) for path in paths])


def speculative(rule, propose, prefix=(0,)):
    """P(the LENGTH tokens after the first), decoded in draft-and-verify cycles: every branch of every cycle."""
    if len(prefix) > LENGTH:
        return {prefix[1 : LENGTH + 1]: 1.0}

    def cycle(draw):
        tree = propose(prefix, draw)
        path, token = verify(rule, tree, target_prob(tree, prefix), draw)
        return (*(tree.token_Q[node] for node in path[1:]), token)

    total = defaultdict(float)
    for emitted, share in outcomes(cycle).items():
        for text, rest in speculative(rule, propose, prefix + emitted).items():
            total[text] += share * rest
    return total


def plain():
    def prob(text):
        return math.prod(language("target", (0, *text[:place]))[token].item() for place, token in enumerate(text))

    return {text: prob(text) for text in product(range(TOKENS), repeat=LENGTH)}


def assert_equal(found, expected):
    assert math.isclose(sum(found.values()), 1)
    for outcome in found.keys() | expected.keys():
        assert math.isclose(found.get(outcome, 0), expected.get(outcome, 0), abs_tol=1e-12), outcome


@pytest.mark.parametrize("propose", PROPOSALS)
@pytest.mark.parametrize("rule", ["target-draw", "rejection"])
def test_the_text_is_distributed_exactly_as_the_targets_own(rule, propose):
    assert_equal(speculative(rule, PROPOSALS[propose]), plain())


def test_keeping_the_likelier_of_two_draws_would_not_be_exact():
    """Why drawn tokens are not reranked."""
    found, expected = speculative("rejection", likelier_draw), plain()
    assert max(abs(found[text] - expected[text]) for text in expected) > 0.01


def test_chosen_children_are_accepted_alike_by_both_rules_with_the_sum_of_their_target_probabilities():
    tree = likeliest((0,), None)
    target = target_prob(tree, (0,))
    by_rule = [
        outcomes(lambda draw, rule=rule: (tuple((found := rule(tree, target, draw))[0]), found[1]))
        for rule in (target_draw, rejection)
    ]
    assert_equal(*by_rule)
    accepted = sum(share for (path, _), share in by_rule[0].items() if len(path) > 1)
    assert math.isclose(accepted, sum(target[0, tree.token_Q[child]] for child in tree.children(0)))


def test_a_drawn_child_is_accepted_with_the_sum_of_the_smaller_probabilities():
    def accepts(draw):
        tree = chain((0,), draw)
        return len(rejection(tree, target_prob(tree, (0,)), draw)[0]) > 1

    expected = torch.minimum(language("target", (0,)), language("draft", (0,))).sum()
    assert math.isclose(outcomes(accepts)[True], expected)


def test_a_draft_that_is_the_target_but_for_rounding_is_always_accepted():
    prob = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0)).softmax(-1)
    tree = Tree.of([0, 5], [-1, 0], prob[[0, 0]])
    rejecting = lambda prob: int(prob.nonzero()[0])  # noqa: E731  wherever that can happen
    assert rejection(tree, prob * (1 - 1e-6), rejecting)[0] == [0, 1]


@pytest.mark.parametrize("rule", ["target-draw", "rejection"])
def test_greedy_is_the_limit_of_a_falling_temperature(rule):
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    best = logits.argmax(-1).tolist()
    tree = Tree.of([0, best[0], 5 - best[0], best[1]], [-1, 0, 0, 1])
    expected = ([0, 1, 3], best[3])
    assert verify(rule, tree, GREEDY.prob(logits), GREEDY.draw) == expected
    for seed in range(20):
        cold = Sampling.seeded(1e-3, seed)
        assert verify(rule, tree, cold.prob(logits), cold.draw) == expected


def test_greedy_takes_the_first_of_equals():
    assert GREEDY.token(torch.tensor([1.0, 3.0, 3.0])) == 1
    assert GREEDY.prob(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [[0, 1, 0]]
