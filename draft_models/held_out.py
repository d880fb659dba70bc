# ruff: noqa: N803, N806  shape suffixes
"""Acceptance on held-out rows without decoding them: what a greedy chain of S steps would accept along each.

While its drafts are right a chain holds the row's own tokens, and at the first wrong one its cycle is over: so the
unrolled pass on rows that the target wrote greedily says exactly what decoding would accept.

Shapes: B rows, T tokens, X predictions (unroll.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from draft_models.acceptance import Acceptance, walk
from draft_models.data import Row
from draft_models.objective import Judgement
from draft_models.unroll import Layout


def chain_acceptance(rows: Sequence[Row], ids_BT: Tensor, layout: Layout, judgement: Judgement) -> Acceptance:
    """Of one batch; its layout has to simulate every position to the end (survival 1)."""
    position_X = torch.cat([torch.arange(alive) for alive in layout.alive_S])[layout.output_X.cpu()]
    reference_X, step_X = layout.reference_X.cpu(), layout.step_X.cpu()
    row_X, column_X = layout.row_R.cpu()[reference_X], layout.column_R.cpu()[reference_X]
    right_X = judgement.proposal_X.cpu() == ids_BT.cpu()[row_X, column_X + 1]
    right_SN = torch.zeros(len(layout.alive_S), len(layout.row_N), dtype=torch.bool)
    right_SN[step_X, position_X] = right_X
    leading_BT = torch.zeros(ids_BT.shape, dtype=torch.long)
    leading_BT[layout.row_N.cpu(), layout.column_N.cpu()] = right_SN.long().cumprod(0).sum(0)
    correct = [
        walk(leading_T, row.response_start - 1, len(row) - 2)
        for leading_T, row in zip(leading_BT.tolist(), rows, strict=True)
    ]
    return Acceptance.of([count for counts in correct for count in counts])
