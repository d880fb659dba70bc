"""Which batches are run without SGLang's preparations, those whose logits are sampled as they are, and their rows."""

from types import SimpleNamespace

import pytest
import torch

from service.runtime.cpu import passes


def batch(**changes):
    """A ScheduleBatch of two usual requests, with what is changed of it or of its sampling_info."""
    info = {
        "penalizer_orchestrator": None,
        "has_custom_logit_processor": False,
        "has_watermark_candidates": False,
        "logit_bias": None,
        "acc_additive_penalties": None,
        "acc_scaling_penalties": None,
        "sampling_mask_batch_indices": None,
    }
    own = {
        "forward_mode": SimpleNamespace(is_idle=lambda: False),
        "has_grammar": False,
        "return_hidden_states": False,
        "hicache_consumer_index": -1,
        "hisparse_coordinator": None,
    }
    assert changes.keys() <= info.keys() | own.keys()
    info |= {name: value for name, value in changes.items() if name in info}
    own |= {name: value for name, value in changes.items() if name in own}
    return SimpleNamespace(**own, sampling_info=SimpleNamespace(**info))


def test_a_usual_batch_samples_logits_as_they_are():
    assert passes.samples_as_is(batch())
    assert passes.samples_as_is(batch(penalizer_orchestrator=SimpleNamespace(is_required=False)))


@pytest.mark.parametrize(
    "wish",
    [
        {"forward_mode": SimpleNamespace(is_idle=lambda: True)},
        {"has_grammar": True},
        {"return_hidden_states": True},
        {"hicache_consumer_index": 0},
        {"hisparse_coordinator": object()},
        {"penalizer_orchestrator": SimpleNamespace(is_required=True)},
        {"has_custom_logit_processor": True},
        {"has_watermark_candidates": True},
        {"logit_bias": torch.zeros(2, 9)},
        {"acc_additive_penalties": torch.zeros(2, 9)},
        {"acc_scaling_penalties": torch.ones(2, 9)},
        {"sampling_mask_batch_indices": torch.tensor([0])},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_a_batch_with_another_wish_goes_sglangs_way(wish):
    assert not passes.samples_as_is(batch(**wish))


def test_slots_are_those_set_aside_after_each_request():
    table = torch.arange(40, dtype=torch.int32).view(4, 10) + 100
    requests = SimpleNamespace(
        req_to_token_pool=SimpleNamespace(req_to_token=table),
        req_pool_indices=torch.tensor([2, 0]),
        seq_lens=torch.tensor([3, 6]),
    )
    assert passes.slots_after(requests, 2) == [[123, 124], [106, 107]]


def test_rows_of_requests_with_different_numbers_of_them():
    assert passes.owners_of([2, 0, 3]) == [0, 0, 2, 2, 2]


def test_a_span_says_where_new_tokens_lie_and_what_they_follow():
    requests = SimpleNamespace(
        req_to_token_pool=SimpleNamespace(req_to_token="table"),
        req_pool_indices=torch.tensor([2, 0]),
        seq_lens=torch.tensor([3, 6]),
    )
    span = passes.span_after(requests, [[23, 24, 25], [6, 7, 8]], [1, 2])
    assert span.slots.tolist() == [23, 6, 7]
    assert span.lengths.tolist() == [4, 8]
    assert span.extends.tolist() == [1, 2]
    assert (span.table, span.tree_mask) == ("table", None)
    assert passes.span_after(requests, [[23], []], [1, 0], [True]).tree_mask.tolist() == [True]
