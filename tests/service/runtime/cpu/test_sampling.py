"""The hooks: seeds for everyone, the same draw for plain decoding and for verification, greedy rows exact."""

from types import SimpleNamespace

import torch

from service.runtime.cpu import sampling

VOCAB, WIDTH = 97, 5
ALL = 1 << 30


def batch_info(requests):
    """A SamplingBatchInfo's tensors for requests given as (temperature, top_k, top_p, min_p, seed)."""
    columns = list(zip(*requests, strict=True))
    return SimpleNamespace(
        temperatures=torch.tensor(columns[0]).view(-1, 1),
        top_ks=torch.tensor(columns[1], dtype=torch.int32),
        top_ps=torch.tensor(columns[2]),
        min_ps=torch.tensor(columns[3]),
        sampling_seed=torch.tensor(columns[4]),
        is_all_greedy=all(top_k == 1 for top_k in columns[1]),
    )


REQUESTS = [(1.0, ALL, 1.0, 0.0, 7), (0.7, 20, 0.9, 0.0, 8), (1.0, 1, 1.0, 0.0, 9), (1.3, ALL, 1.0, 0.1, -10)]


def verify(logits, info, positions):
    sampling.remember_positions(SimpleNamespace(positions=positions), SimpleNamespace(sampling_info=info))
    return sampling.draw_tree_targets(
        next_token_logits=logits, sampling_info=info, batch_size=len(info.top_ks), verify_width=WIDTH, max_top_k=None
    )


def plain(logits, info, position):
    probs = sampling.softmax(logits / info.temperatures)
    at = torch.full((len(logits),), position)
    return sampling.draw_filtered(probs, info.top_ks, info.top_ps, info.min_ps, True, info.sampling_seed, at)


def test_verification_draws_what_plain_decoding_draws_at_the_same_position():
    logits, info = 3 * torch.randn(len(REQUESTS), WIDTH, VOCAB), batch_info(REQUESTS)
    positions = torch.arange(WIDTH).repeat(len(REQUESTS)) + 30
    drawn = verify(logits.view(-1, VOCAB), info, positions)
    assert drawn.shape == (len(REQUESTS), WIDTH)
    for node in range(WIDTH):
        assert drawn[:, node].tolist() == plain(logits[:, node], info, 30 + node).tolist()


def test_a_greedy_request_gets_the_argmax_whoever_shares_its_batch():
    logits, info = torch.randn(len(REQUESTS) * WIDTH, VOCAB), batch_info(REQUESTS)
    drawn = verify(logits, info, torch.arange(len(logits)))
    assert drawn[2].tolist() == logits.view(-1, WIDTH, VOCAB)[2].argmax(-1).tolist()


def test_a_batch_of_greedy_requests_gets_each_nodes_argmax():
    logits, info = torch.randn(2 * WIDTH, VOCAB), batch_info([REQUESTS[2]] * 2)
    logits[3, 5] = logits[3, 90] = 50.0
    drawn = verify(logits, info, torch.arange(len(logits)))
    assert drawn.tolist() == logits.view(2, WIDTH, VOCAB).argmax(-1).tolist()
    assert drawn[0, 3] == 5


def test_two_nodes_at_one_position_draw_with_one_coin():
    """Siblings stand for the same place in the text: only one is emitted, with the draw plain decoding would make."""
    logits, info = torch.randn(1, VOCAB).repeat(WIDTH, 1), batch_info(REQUESTS[:1])
    assert len(set(verify(logits, info, torch.full((WIDTH,), 12))[0].tolist())) == 1


def test_the_unfiltered_sampler_is_the_filtered_one_without_filters():
    probs, seeds, at = torch.randn(6, VOCAB).softmax(-1), torch.arange(6), torch.arange(6)
    none = (torch.full((6,), ALL, dtype=torch.int32), torch.ones(6), torch.zeros(6))
    expected = sampling.draw_filtered(probs, *none, False, seeds, at)
    assert torch.equal(sampling.draw_unfiltered(probs, seeds, at), expected)


def test_without_seeds_draws_are_fresh():
    probs = torch.full((1, 5000), 1 / 5000)
    assert len({int(sampling.draw_unfiltered(probs)) for _ in range(8)}) > 1


def test_the_sampling_mask_lists_what_could_have_been_drawn():
    info, probs = batch_info(REQUESTS), torch.randn(len(REQUESTS), VOCAB).softmax(-1)
    arguments = (info.top_ks, info.top_ps, info.min_ps, True, info.sampling_seed, torch.zeros(4, dtype=torch.int64))
    drawn, weights, ids, weight_of_drawn = sampling.draw_filtered(probs, *arguments, return_filtered_probs=True)
    assert torch.equal(weight_of_drawn, probs.gather(1, drawn.long().unsqueeze(1)).squeeze(1))
    assert [(row > 0).sum().item() for row in weights][2] == 1
    assert torch.equal(probs.gather(1, ids.long())[weights > 0], weights[weights > 0])


def request(seed=None):
    return SimpleNamespace(sampling_params=SimpleNamespace(sampling_seed=seed))


def test_every_row_has_a_seed_and_keeps_it():
    reqs = [request(5), request(), request(-(2**63)), request()]
    batch = SimpleNamespace(reqs=reqs)
    first = sampling.set_seeds(SimpleNamespace(), object, batch, 10).sampling_seed
    again = sampling.set_seeds(SimpleNamespace(), object, batch, 10).sampling_seed
    assert torch.equal(first, again)
    assert first[0] == 5
    assert first[2] == -(2**63)
    assert first[1] != first[3]
