"""Training unrolls exactly what decoding does: same recursion, same positions, same keys."""

import pytest
import torch

from draft_models.decode import DraftSession
from draft_models.target import padded
from draft_models.unroll import Layout, unroll
from tests.draft_models import tiny

STEPS = 4


@pytest.fixture(scope="module")
def unrolled():
    target, rows = tiny.target(), tiny.rows(3)
    draft = tiny.draft(target)
    ids = padded([row.ids for row in rows])
    features = target.features(ids)
    layout = Layout.of([len(row) for row in rows], [row.response_start for row in rows], STEPS)
    with torch.no_grad():
        outputs = unroll(draft, target.embed_VD, ids, draft.fuse(features.taps_BTF.flatten(0, 1)), layout)
    return target, draft, rows, features, layout, outputs.view(STEPS, len(layout.row_N), -1)


@torch.no_grad()
def test_every_unrolled_output_is_that_of_decoding_with_a_cache(unrolled):
    target, draft, rows, features, layout, outputs = unrolled
    for place, (row, column) in enumerate(zip(layout.row_N.tolist(), layout.column_N.tolist(), strict=True)):
        ids = list(rows[row].ids)
        session = DraftSession(draft, target.embed_VD)
        hidden = session.extend(ids[1 : column + 2], draft.fuse(features.taps_BTF[row, : column + 1]))[-1:]
        torch.testing.assert_close(outputs[0, place], hidden[0], rtol=1e-4, atol=1e-5)
        for step in range(1, STEPS):
            if column + 1 + step >= len(ids):
                break
            hidden = session.extend([ids[column + 1 + step]], hidden)  # true tokens, the draft's own features
            torch.testing.assert_close(outputs[step, place], hidden[0], rtol=1e-4, atol=1e-5)


def outputs_of(layout):
    """(step, row, column) of every output, in order."""
    return [
        (step, row, column)
        for step, alive in enumerate(layout.alive_S)
        for row, column in zip(layout.row_N[:alive].tolist(), layout.column_N[:alive].tolist(), strict=True)
    ]


def test_each_response_token_is_predicted_once_at_every_step(unrolled):
    *_, rows, _, layout, _ = unrolled
    references = list(zip(layout.row_R.tolist(), layout.column_R.tolist(), strict=True))
    assert references == [
        (index, place - 1) for index, row in enumerate(rows) for place in range(max(row.response_start, 2), len(row))
    ]
    outputs = outputs_of(layout)
    predicted = []
    for output, reference, step in zip(
        layout.output_X.tolist(), layout.reference_X.tolist(), layout.step_X.tolist(), strict=True
    ):
        from_step, row, column = outputs[output]
        assert from_step == step
        assert references[reference] == (row, column + 1 + step)
        predicted.append((step, reference))
    assert layout.reference_X.tolist() == sorted(layout.reference_X.tolist())
    assert sorted(predicted) == [
        (step, index) for step in range(STEPS) for index, (_, column) in enumerate(references) if column - 1 - step >= 0
    ]


def test_positions_are_dropped_for_good_at_the_rate_asked_for():
    survival, length = 0.7, 20_000
    layout = Layout.of([length], [1], STEPS, survival, torch.Generator().manual_seed(0))
    assert layout.alive_S[0] == length - 2
    for step, alive in enumerate(layout.alive_S):
        assert alive / layout.alive_S[0] == pytest.approx(survival**step, abs=0.02)
    assert sorted(layout.column_N.tolist()) == list(range(length - 2))


def test_what_is_simulated_after_others_were_dropped_is_what_it_was_with_them(unrolled):
    target, draft, rows, features, _, outputs = unrolled
    *_, layout, _ = unrolled
    lengths, starts = [len(row) for row in rows], [row.response_start for row in rows]
    fewer = Layout.of(lengths, starts, STEPS, 0.6, torch.Generator().manual_seed(3))
    assert fewer.alive_S[-1] < fewer.alive_S[0]
    ids = padded([row.ids for row in rows])
    with torch.no_grad():
        found = unroll(draft, target.embed_VD, ids, draft.fuse(features.taps_BTF.flatten(0, 1)), fewer)
    every = dict(zip(outputs_of(layout), outputs.flatten(0, 1), strict=True))
    for output, key in zip(found, outputs_of(fewer), strict=True):
        torch.testing.assert_close(output, every[key], rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(unrolled):
    target, draft, rows, _, _, outputs = unrolled
    alone = rows[0]
    layout = Layout.of([len(alone)], [alone.response_start], STEPS)
    ids = padded([alone.ids])
    with torch.no_grad():
        fused = draft.fuse(target.features(ids).taps_BTF.flatten(0, 1))
        found = unroll(draft, target.embed_VD, ids, fused, layout).view(STEPS, len(layout.row_N), -1)
    torch.testing.assert_close(found, outputs[:, : found.shape[1]], rtol=1e-4, atol=1e-5)
