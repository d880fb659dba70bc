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
        outputs = unroll(draft, target.embed_VD, ids, features.taps_BTF, layout, STEPS)
    return target, draft, rows, features, layout, outputs


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


def test_each_response_token_is_predicted_once_at_every_step(unrolled):
    *_, rows, _, layout, _ = unrolled
    predicted = set(zip(layout.row_R.tolist(), (layout.column_R + 1).tolist(), strict=True))
    assert predicted == {
        (index, place) for index, row in enumerate(rows) for place in range(max(row.response_start, 2), len(row))
    }
    for step in range(STEPS):
        for source, row, column in zip(
            *(x.tolist() for x in (layout.source_SR[step], layout.row_R, layout.column_R)), strict=True
        ):
            if column - 1 - step < 0:
                assert source == -1
                continue
            assert layout.row_N[source] == row
            assert layout.column_N[source] + 2 + step == column + 1


def test_padding_changes_nothing(unrolled):
    target, draft, rows, _, _, outputs = unrolled
    alone, offset = rows[0], 0
    layout = Layout.of([len(alone)], [alone.response_start], STEPS)
    ids = padded([alone.ids])
    with torch.no_grad():
        found = unroll(draft, target.embed_VD, ids, target.features(ids).taps_BTF, layout, STEPS)
    torch.testing.assert_close(found, outputs[:, offset : offset + found.shape[1]], rtol=1e-4, atol=1e-5)
