"""The fused loss is the naive one: same value, same gradients, in chunks or not."""

import pytest
import torch

from draft_models import loss
from draft_models.loss import soft_cross_entropy


def naive(hidden, head, reference, reference_head, judged_by, weight):
    reference_prob = (reference @ reference_head.T).softmax(-1)[judged_by]
    log_prob = (hidden @ head.T).log_softmax(-1)
    return -((reference_prob * log_prob).sum(-1) * weight).sum()


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    predictions, positions, size, words = 25, 10, 6, 11
    hidden = torch.randn(predictions, size, dtype=torch.float64, requires_grad=True)
    head = torch.randn(words, size, dtype=torch.float64, requires_grad=True)
    reference, reference_head = torch.randn(positions, size).double(), torch.randn(words, size).double()
    judged_by = torch.randint(positions, (predictions,)).sort().values
    return hidden, head, reference, reference_head, judged_by, torch.rand(predictions).double()


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_value_and_gradients_are_the_naive_loss(inputs, chunk, monkeypatch):
    monkeypatch.setitem(loss.CHUNK, "cpu", chunk)
    hidden, head, *_ = inputs
    ours, theirs = soft_cross_entropy(*inputs).loss, naive(*inputs)
    torch.testing.assert_close(ours, theirs, check_dtype=False, rtol=1e-6, atol=1e-6)
    for found, expected in zip(
        torch.autograd.grad(2 * ours, (hidden, head)), torch.autograd.grad(2 * theirs, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_the_finite_differences_of_the_value(inputs):
    hidden, head, *rest = inputs
    analytic = torch.autograd.grad(soft_cross_entropy(*inputs).loss, head)[0]
    step = torch.zeros_like(head)
    step[4, 2] = 1e-5
    with torch.no_grad():
        ahead, behind = (naive(hidden, head + sign * step, *rest) for sign in (1, -1))
    assert analytic[4, 2].item() == pytest.approx((ahead - behind).item() / 2e-5, rel=1e-5)


def test_a_draft_that_agrees_with_the_target_has_no_gradient(inputs):
    _, _, reference, reference_head, judged_by, weight = inputs
    hidden = reference[judged_by].clone().requires_grad_()
    judged = soft_cross_entropy(hidden, reference_head, reference, reference_head, judged_by, weight)
    judged.loss.backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().max() < 1e-12
    assert judged.proposal_X.tolist() == (reference @ reference_head.T).argmax(-1)[judged_by].tolist()


def test_weight_zero_leaves_a_position_out(inputs):
    hidden, head, reference, reference_head, judged_by, weight = inputs
    weight[4] = 0
    soft_cross_entropy(hidden, head, reference, reference_head, judged_by, weight).loss.backward()
    assert hidden.grad is not None
    assert hidden.grad[4].abs().max() == 0
    assert hidden.grad[5].abs().max() > 0


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    hidden, head, judged_by = torch.randn(100, 16), torch.randn(70, 16), torch.arange(50).repeat_interleave(2)
    reference, reference_head, weight = torch.randn(50, 16), torch.randn(70, 16), torch.rand(100)
    exact = soft_cross_entropy(hidden, head, reference, reference_head, judged_by, weight).loss
    rounded = soft_cross_entropy(hidden.bfloat16(), head, reference.bfloat16(), reference_head, judged_by, weight).loss
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)
