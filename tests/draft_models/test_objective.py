"""What training minimises: dropping positions changes its noise, not what it aims at; and the feature constraint."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from draft_models.config import TrainConfig
from draft_models.objective import Objective
from draft_models.target import padded
from draft_models.unroll import Layout, unroll
from tests.draft_models import tiny

STEPS = 4
CONFIG = TrainConfig(num_steps=STEPS, compute_dtype="float32")


@pytest.fixture(scope="module")
def batch():
    target, rows = tiny.target(), tiny.rows(4)
    ids, features = target.features_of(rows)
    return target, tiny.draft(target), rows, ids, features


def layout(rows, survival=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Layout.of([len(row) for row in rows], [row.response_start for row in rows], STEPS, survival, generator)


def loss_and_gradient(batch, survival, seed):
    target, draft, rows, ids, features = batch
    draft.zero_grad()
    loss = Objective(draft, target, CONFIG)(ids, features, layout(rows, survival, seed)).loss
    loss.backward()
    return torch.cat(
        [loss.detach()[None], draft.fc.weight.grad.flatten(), draft.midlayer.mlp.up_proj.weight.grad.flatten()]
    )


def test_dropped_positions_leave_the_expected_loss_and_gradient_as_they_were(batch):
    exact = loss_and_gradient(batch, 1.0, 0)
    draws = torch.stack([loss_and_gradient(batch, 0.6, seed) for seed in range(300)])
    error = (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5).clamp(min=1e-9)
    assert draws.std(0)[0] > 0
    assert error.abs().mean() < 1.0  # standard errors; 0.8 for an unbiased mean, and far more for a biased one
    assert error[0].abs() < 4


def test_what_is_measured_does_not_depend_on_how_training_drops_positions(batch):
    target, draft, rows, ids, features = batch
    losses = [
        Objective(draft, target, CONFIG.model_copy(update={"position_survival": survival}))(
            ids, features, layout(rows)
        ).loss
        for survival in (0.5, 1.0)
    ]
    assert losses[0] == losses[1]


def test_the_feature_constraint_is_the_distance_to_the_fused_features_of_the_same_tokens(batch):
    target, draft, rows, ids, features = batch
    plain, constrained = (
        Objective(draft, target, CONFIG.model_copy(update={"feature_weight": weight}))(ids, features, layout(rows)).loss
        for weight in (0.0, 3.0)
    )
    plan = layout(rows)
    fused = draft.fuse(features.taps_BTF)
    outputs = unroll(draft, target.embed_VD, ids, fused.flatten(0, 1), plan)
    expected = 0.0
    for output, reference, step in zip(plan.output_X, plan.reference_X, plan.step_X, strict=True):
        own = fused[plan.row_R[reference], plan.column_R[reference]]
        expected += CONFIG.position_decay ** int(step) * smooth_l1_loss(outputs[output], own).item()
    assert (constrained - plain).item() == pytest.approx(3 * expected / len(plan.row_R), rel=1e-4)


def test_bfloat16_gradients_stay_close_to_float32(batch):
    target, draft, rows, ids, features = batch
    found = []
    for dtype in ("float32", "bfloat16"):
        draft.zero_grad()
        Objective(draft, target, CONFIG.model_copy(update={"compute_dtype": dtype}))(
            ids, features, layout(rows)
        ).loss.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in draft.parameters()]))
    assert cosine_similarity(*found, dim=0) > 0.99


def test_padding_is_no_part_of_a_batch(batch):
    target, draft, rows, ids, features = batch
    assert ids.equal(padded([row.ids for row in rows]))
    objective = Objective(draft, target, CONFIG)
    alone = [objective(*target.features_of([row]), layout([row])) for row in rows]
    counts = [len(layout([row]).row_R) for row in rows]
    mean = sum(judged.loss * count for judged, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(objective(ids, features, layout(rows)).loss, mean, rtol=1e-4, atol=1e-6)
