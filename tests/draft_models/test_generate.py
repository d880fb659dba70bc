"""Batches change nothing: each answer is what the target would write alone."""

import random
from collections import Counter, deque

import pytest
import torch

from draft_models import generate
from draft_models.decode import decode_plain
from draft_models.generate import Batcher, Request, draw
from tests.draft_models import tiny

EOS = frozenset({1})


def requests(count, temperature=0.0):
    """Prompts of 1 to 40 tokens, answers of 1 to 30."""
    chance = random.Random(3)
    made = []
    for index in range(count):
        ids = tuple(chance.randrange(2, tiny.VOCAB) for _ in range(chance.randrange(1, 40)))
        made.append(Request(str(index), ids, chance.randrange(1, 30), EOS, temperature, f"seed {index}"))
    return made


def answers(asked, batch_size):
    found = {done.request.key: done.ids for done in Batcher(tiny.target(), batch_size).run(deque(asked))}
    assert len(found) == len(asked)
    return found


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_batched_greedy_answers_are_those_of_one_prompt_at_a_time(kind, monkeypatch):
    monkeypatch.setattr(generate, "COLUMNS", 8)  # the slots grow more than once
    asked, alone = requests(13), tiny.target(kind=kind)
    for done in Batcher(tiny.target(kind=kind), 4).run(deque(asked)):
        prompt, limit = list(done.request.ids), done.request.max_tokens
        assert list(done.ids) == decode_plain(alone, prompt, limit, set(EOS)).ids
        assert done.ended == (done.ids[-1] in EOS)


def test_prompts_that_are_read_together_do_not_see_each_other(monkeypatch):
    monkeypatch.setattr(generate, "READ_TOGETHER", 50)  # one long prompt, or several short ones
    assert answers(requests(20), 20) == answers(requests(20), 1)


def test_slots_of_finished_answers_are_given_to_others():
    batcher, asked = Batcher(tiny.target(), 8), requests(40)
    for done in batcher.run(deque(asked)):
        assert len(batcher.rows) <= 8
        assert not done.ended or done.ids[-1] in EOS
    assert not batcher.rows
    assert {layer.key_BCGd.shape[1] for layer in batcher.slots.stored} == {128}


def test_sampled_answers_depend_on_their_seed_and_on_nothing_else():
    asked = requests(11, temperature=1.0)
    alone = answers(asked, 1)
    assert answers(asked, 5) == answers(asked[::-1], 11) == alone
    reseeded = [Request(one.key, one.ids, one.max_tokens, EOS, 1.0, one.seed + "!") for one in asked]
    assert answers(reseeded, 5) != alone


def test_what_is_asked_for_while_it_runs_is_answered_too():
    queue = deque(requests(3))
    seen = []
    for done in Batcher(tiny.target(), 2).run(queue):
        seen.append(done.request.key)
        if not done.request.key.startswith("again"):
            queue.appendleft(Request(f"again {done.request.key}", done.request.ids, 5, EOS))
    assert sorted(seen) == ["0", "1", "2", "again 0", "again 1", "again 2"]


def test_a_stop_token_ends_an_answer_and_is_its_last():
    for ids in answers(requests(30, temperature=1.0), 8).values():
        assert 1 not in ids[:-1]


def test_draws_follow_the_distribution_cut_to_its_likeliest_tokens():
    logits = torch.tensor([0.5, 0.3, 0.12, 0.06, 0.02]).log()  # the first four make up .95
    chances = [random.Random(seed) for seed in range(4000)]
    counts = Counter(draw(logits.expand(4000, -1), chances))
    assert set(counts) == {0, 1, 2, 3}
    for token, share in enumerate([0.5 / 0.98, 0.3 / 0.98, 0.12 / 0.98, 0.06 / 0.98]):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_steps_replayed_as_a_cuda_graph_answer_as_one_prompt_at_a_time_does():
    target, alone, asked = tiny.target().to(torch.device("cuda")), tiny.target(), requests(20)
    for done in Batcher(target, 4).run(deque(asked)):
        assert list(done.ids) == decode_plain(alone, list(done.request.ids), done.request.max_tokens, set(EOS)).ids
