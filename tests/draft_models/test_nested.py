"""One replay of the answer's positions says, of every tree within the widest, what decoding with it accepts."""

from itertools import product

import pytest
import torch

from draft_models import nested
from draft_models.decode import DraftSession, decode, decode_plain
from draft_models.errors import ConfigError
from draft_models.nested import needed_tokens
from draft_models.record import Recorded
from draft_models.tree import TreeShape
from draft_models.verify import Sampling
from tests.draft_models import tiny

WIDEST = TreeShape(4, 4, 30)


def often_right():
    """Of few tokens."""
    target = tiny.target(vocab_size=12)
    return target, tiny.draft(target, draft_vocab_size=10)


def unlike_levels():
    """A draft whose proposals depend on the token before, as a trained one's do."""
    target = tiny.target(vocab_size=20)
    draft = tiny.draft(target, seed=3, draft_vocab_size=18)
    draft.lm_head.weight.data *= 8
    for linear in (draft.midlayer.mlp.down_proj, draft.midlayer.self_attn.o_proj):
        linear.weight.data *= 10
    return target, draft


@pytest.fixture(scope="module")
def models():
    return often_right()


def within(widest):
    """Every number of steps and topk, each with the smallest tree, a larger one, and the largest."""
    for steps, topk in product(range(1, widest.num_steps + 1), range(1, widest.eagle_topk + 1)):
        for tokens in sorted({steps + 1, 2 * steps + 3, widest.num_draft_tokens}):
            try:
                yield TreeShape(steps, topk, tokens)
            except ConfigError:
                continue


@pytest.mark.parametrize(("made", "temperature"), [(often_right, 0.8), (unlike_levels, 0.0)])
def test_every_tree_accepts_in_each_cycle_what_the_replay_says(made, temperature):
    target, draft = made()
    accepted = 0
    for seed in range(2):
        prompt = torch.randint(2, 12, (7,), generator=torch.Generator().manual_seed(seed)).tolist()
        answer = decode_plain(target, prompt, 20, {1}, Sampling.seeded(temperature, seed)).ids
        recorded = Recorded("task", 7, len(answer), needed_tokens(target, draft, prompt, answer, WIDEST))
        for shape in within(WIDEST):
            decoded = decode(target, draft, prompt, 20, {1}, shape, Sampling.seeded(temperature, seed))
            assert decoded.ids == answer
            assert recorded.acceptance(shape) == decoded.acceptance, shape
            accepted += decoded.acceptance.correct_drafts
    assert accepted > 30  # or the law would say little


def test_positions_drafted_together_do_not_see_one_another(models, monkeypatch):
    target, draft = models
    answer = decode_plain(target, [3, 4, 5], 30, {1}).ids
    together = needed_tokens(target, draft, [3, 4, 5], answer, WIDEST)
    monkeypatch.setattr(nested, "DRAFTED_TOGETHER", 1)
    assert needed_tokens(target, draft, [3, 4, 5], answer, WIDEST) == together


def test_a_node_is_read_where_decoding_reads_it(models, monkeypatch):
    target, draft = models
    read, forward = [], DraftSession.forward

    def told(session, ids, hidden, position, mask):
        read.append((ids.tolist(), position.tolist(), mask.sum(1).tolist()))
        return forward(session, ids, hidden, position, mask)

    monkeypatch.setattr(DraftSession, "forward", told)
    answer = decode(target, draft, [3, 4, 5], 2, set(), TreeShape(4, 1, 5)).ids
    _prompt, *decoded = read
    read.clear()
    needed_tokens(target, draft, [3, 4, 5], answer, TreeShape(4, 1, 5))
    _known, *replayed = read
    assert replayed == decoded
    assert len(decoded) == 3


def test_growths_of_different_topk_are_not_nested_so_a_level_may_expand_more_than_the_largest(monkeypatch):
    target, draft = unlike_levels()
    expanded, forward = [], DraftSession.forward

    def counted(session, ids, *rest):
        expanded.append(len(ids))
        return forward(session, ids, *rest)

    monkeypatch.setattr(DraftSession, "forward", counted)
    monkeypatch.setattr(nested, "DRAFTED_TOGETHER", 1)
    needed_tokens(target, draft, [3, 4, 5], [*range(2, 12)] * 2, TreeShape(4, 2, 7))
    _verified, *levels = expanded
    assert set(levels[::3]) == {2}  # the first levels: of the root's children the best are nested
    assert max(levels) == 3


def test_what_a_draft_needs_grows_along_the_path_and_with_the_steps(models):
    target, draft = models
    answer = decode_plain(target, [3, 4, 5], 40, {1}).ids
    needed = needed_tokens(target, draft, [3, 4, 5], answer, WIDEST)
    for (steps, topk), paths in needed.items():
        assert len(paths) == len(answer) - 1
        for position, path in enumerate(paths):
            assert len(path) <= min(steps, len(answer) - 1 - position)
            assert path == sorted(set(path))
            assert all(2 <= tokens <= WIDEST.num_draft_tokens for tokens in path)
            if steps > 1:
                before = needed[steps - 1, topk][position]
                assert all(more >= less for more, less in zip(path, before, strict=False))
