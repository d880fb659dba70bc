# ruff: noqa: N803, N806, N812, N815  shape suffixes
"""Training-time test (section 3.2, Figure 6): the draft unrolled on its own outputs.

Position t starts where decoding would start after the target has verified tokens 0..t+1: it holds the target's feature
of token t and the embedding of token t + 1, and predicts token t + 2. At step s it holds its own output of step s - 1
and the embedding of token t + 1 + s, and predicts token t + 2 + s. So a token's prediction at step s is that of
decoding s steps deep, and the draft learns to live with its own errors.

    step 0: feature[t], token[t+1] -> token[t+2]
    step s: output of step s-1 at t, token[t+1+s] -> token[t+2+s]

The reference for token n + 1 is what the target makes of its final hidden state of token n; step s predicts that token
at position t = n - 1 - s. `Layout` turns this into indices once per batch. Only positions from which some step predicts
a response token are simulated; the prompt is there to be attended to.

Shapes: B rows, T tokens, N simulated positions, R reference rows (predictions of a response token), S steps,
D hidden size, F tap features, V target vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from draft_models.attention import CausalThenDiagonal
from draft_models.model import DraftModel


@dataclass(frozen=True)
class Layout:
    """Which positions of a padded batch are simulated, and which of them predicts what."""

    row_N: Tensor
    column_N: Tensor
    row_R: Tensor
    column_R: Tensor
    """Reference rows: the target's hidden state at (row, column) gives the distribution of token column + 1."""
    source_SR: Tensor
    """Index into N of the position whose step s predicts that same token; -1 where there is none."""

    @classmethod
    def of(cls, lengths: list[int], response_starts: list[int], num_steps: int) -> "Layout":
        """For rows of `lengths` tokens whose response begins at `response_starts`, padded to the longest."""
        reference = _ranges([max(start - 1, 1) for start in response_starts], [length - 1 for length in lengths])
        simulated = _ranges(
            [max(start - 1 - num_steps, 0) for start in response_starts], [length - 2 for length in lengths]
        )
        (row_R, column_R), (row_N, column_N) = reference, simulated
        index_BT = torch.full((len(lengths), max(lengths)), -1)
        index_BT[row_N, column_N] = torch.arange(len(row_N))
        column_SR = column_R - 1 - torch.arange(num_steps)[:, None]
        source_SR = index_BT[row_R, column_SR.clamp(min=0)].masked_fill(column_SR < 0, -1)
        return cls(row_N, column_N, row_R, column_R, source_SR)


def unroll(draft: DraftModel, embed_VD: Tensor, ids_BT: Tensor, taps_BTF: Tensor, layout: Layout, steps: int) -> Tensor:
    """Outputs of every step at every simulated position, [S, N, D], before the final norm."""
    rows, columns = ids_BT.shape
    padded_BT = F.pad(ids_BT, (0, steps + 1))
    attend = CausalThenDiagonal(rows, layout.row_N, layout.column_N)
    hidden_MD = draft.fuse(taps_BTF.flatten(0, 1))
    embed_MD = embed_VD[padded_BT[:, 1 : 1 + columns].flatten()].to(hidden_MD.dtype)
    position_M = torch.arange(columns).repeat(rows)
    keep_N = layout.row_N * columns + layout.column_N
    outputs = [draft(embed_MD, hidden_MD, position_M, attend, keep_N)]
    for step in range(1, steps):
        ids_N = padded_BT[layout.row_N, layout.column_N + 1 + step]
        embed_ND = embed_VD[ids_N].to(hidden_MD.dtype)
        outputs.append(draft(embed_ND, outputs[-1], layout.column_N + step, attend))
    return torch.stack(outputs)


def _ranges(starts: list[int], stops: list[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the positions starts[b]..stops[b] - 1 of each row b."""
    spans = [torch.arange(start, max(start, stop)) for start, stop in zip(starts, stops, strict=True)]
    rows = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor([len(span) for span in spans]))
    return rows, torch.cat(spans)
