"""Drafts drawn with the target's noise: a draft that knows the target's distribution proposes the target's draws."""

from types import SimpleNamespace

import pytest
import torch

from service.runtime.cpu import coupling

from .test_sampling import REQUESTS, VOCAB, batch_info, plain

START = 30


def propose(logits, info, positions, extend_lens=None, hot_token_id=None):
    """What the draft's logits become."""
    batch = SimpleNamespace(sampling_info=info, extend_seq_lens=extend_lens)
    output = SimpleNamespace(next_token_logits=logits.clone())
    draft = SimpleNamespace(hot_token_id=hot_token_id)
    return coupling.propose_draws(output, draft, None, positions, batch).next_token_logits


def test_each_row_proposes_the_draw_of_the_token_after_its_own():
    logits, info = 3 * torch.randn(len(REQUESTS), 4, VOCAB), batch_info(REQUESTS)
    positions = torch.arange(4).repeat(len(REQUESTS)) + START
    proposed = propose(logits.view(-1, VOCAB), info, positions).argmax(-1).view(-1, 4)
    for node in range(4):
        assert proposed[:, node].tolist() == plain(logits[:, node], info, START + node + 1).tolist()


def test_after_a_prompt_it_is_the_row_of_the_prompts_last_token():
    logits, info = 3 * torch.randn(len(REQUESTS), VOCAB), batch_info(REQUESTS)
    lengths = torch.tensor([5, 1, 3, 2])
    positions = torch.cat([torch.arange(START + 1 - n, START + 1) for n in lengths.tolist()])
    proposed = propose(logits, info, positions, extend_lens=lengths).argmax(-1)
    assert proposed.tolist() == plain(logits, info, START + 1).tolist()


def test_noise_belongs_to_the_targets_token_id_not_to_the_drafts():
    known = torch.randperm(VOCAB)[:40]
    info = batch_info([(1.0, 1 << 30, 1.0, 0.0, seed) for seed in range(64)])
    target = torch.full((64, VOCAB), -torch.inf)
    target[:, known] = 2 * torch.randn(64, 40)
    proposed = propose(target[:, known], info, torch.full((64,), START), hot_token_id=known).argmax(-1)
    assert known[proposed].tolist() == plain(target, info, START + 1).tolist()


def test_a_greedy_request_proposes_its_likeliest_tokens_whoever_shares_its_batch():
    logits, info = torch.randn(len(REQUESTS), VOCAB), batch_info(REQUESTS)
    greedy = info.top_ks == 1
    assert torch.equal(propose(logits, info, torch.full((4,), START))[greedy], logits[greedy])
    alone = batch_info([request for request in REQUESTS if request[1] == 1])
    assert torch.equal(propose(logits[greedy], alone, torch.full((1,), START)), logits[greedy])


def test_what_the_request_rules_out_is_never_proposed():
    logits = torch.tensor([[3.0, 2.9, 2.8, 0.0]]).repeat(500, 1)
    info = batch_info([(1.0, 2, 1.0, 0.0, seed) for seed in range(500)])
    assert set(propose(logits, info, torch.full((500,), START)).argmax(-1).tolist()) == {0, 1}


@pytest.mark.parametrize(
    "requests",
    [REQUESTS, [REQUESTS[2]] * 3, [(0.6, 1 << 30, 1.0, 0.0, seed) for seed in range(5)]],
    ids=["mixed", "greedy", "unfiltered"],
)
@pytest.mark.parametrize("count", [1, 4])
def test_proposals_in_one_op_are_those_of_the_noisy_logits(requests, count):
    rows = 3 * len(requests)
    logits, positions, known = (
        (2 * torch.randn(rows, VOCAB)).bfloat16(),
        torch.arange(rows),
        torch.randperm(2 * VOCAB)[:VOCAB],
    )
    info = batch_info(requests)
    draft, owners = SimpleNamespace(hot_token_id=known), torch.arange(len(requests)).repeat_interleave(3)
    probs, ids = coupling.propose(logits, count, draft, positions, info, owners)
    noisy = propose(logits, info, positions, hot_token_id=known).float()
    kept = noisy > -torch.inf
    noisy = torch.where(kept, noisy, logits.float()).softmax(-1) * kept
    likeliest = noisy.sort(dim=-1, descending=True)[0][:, :count]
    for found in (probs, noisy.gather(1, ids)):
        torch.testing.assert_close(found, likeliest, atol=1e-6, rtol=1e-4)
