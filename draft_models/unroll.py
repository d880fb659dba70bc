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

Deep steps weigh less (`position_decay`), and cost as much as the first. So instead of simulating every position to the
end and weighing step s by survival ** s, each position is simulated on from one step to the next with probability
`survival`, and what is simulated weighs fully: the same loss in expectation, for (1 - survival ** S) / (1 - survival)
steps a position instead of S (3.4 instead of 5 at 0.8).

Shapes: B rows, T tokens, N simulated positions, R reference rows (predictions of a response token), S steps,
O outputs (those of step 0, then those of step 1...), X outputs that predict a response token, D hidden size,
F tap features, V target vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from draft_models.attention import CausalThenDiagonal
from draft_models.model import DraftModel


@dataclass(frozen=True)
class Layout:
    """Which positions of a padded batch are simulated how far, and which of them predicts what."""

    row_N: Tensor
    column_N: Tensor
    """Of the simulated positions, those simulated furthest first."""
    alive_S: tuple[int, ...]
    """Step s simulates the first alive_S[s] of them."""
    row_R: Tensor
    column_R: Tensor
    """Reference rows: the target's hidden state at (row, column) gives the distribution of token column + 1."""
    output_X: Tensor
    """Index into O of an output that predicts a response token."""
    reference_X: Tensor
    """Index into R of the reference it is judged by; rising."""
    step_X: Tensor
    """The step it comes from."""
    survival: float
    """The share of positions that was simulated on from one step to the next."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        response_starts: Sequence[int],
        num_steps: int,
        survival: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Self:
        """For rows of `lengths` tokens whose response begins at `response_starts`, padded to the longest."""
        row_R, column_R = _ranges([max(start - 1, 1) for start in response_starts], [length - 1 for length in lengths])
        row_N, column_N = _ranges(
            [max(start - 1 - num_steps, 0) for start in response_starts], [length - 2 for length in lengths]
        )
        lifetime_N = _lifetimes(len(row_N), num_steps, survival, generator)
        lifetime_N, order_N = lifetime_N.sort(descending=True, stable=True)
        row_N, column_N = row_N[order_N], column_N[order_N]
        alive_S = tuple(int((lifetime_N > step).sum()) for step in range(num_steps))
        table_BT = torch.full((len(lengths), max(lengths) + num_steps), -1)
        table_BT[row_R, column_R] = torch.arange(len(row_R))
        reference_O = torch.cat(
            [table_BT[row_N[:alive], column_N[:alive] + 1 + step] for step, alive in enumerate(alive_S)]
        )
        step_O = torch.repeat_interleave(torch.arange(num_steps), torch.tensor(alive_S))
        output_X = reference_O.argsort(stable=True)[int((reference_O < 0).sum()) :]
        reference_X, step_X = reference_O[output_X], step_O[output_X]
        return cls(row_N, column_N, alive_S, row_R, column_R, output_X, reference_X, step_X, survival)

    def to(self, device: torch.device) -> Self:
        """The same, its tensors on another device."""
        tensors: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


def unroll(draft: DraftModel, embed_VD: Tensor, ids_BT: Tensor, fused_MD: Tensor, layout: Layout) -> Tensor:
    """Outputs of every step at every position simulated so far, [O, D], before the final norm.

    `fused_MD` is the draft's `fuse` of the target's features at all B * T positions.
    """
    rows, columns = ids_BT.shape
    padded_BT = F.pad(ids_BT, (0, len(layout.alive_S) + 1))
    attend = CausalThenDiagonal(rows, layout.row_N, layout.column_N)
    embed_MD = embed_VD[padded_BT[:, 1 : 1 + columns].flatten()].to(fused_MD.dtype)
    position_M = torch.arange(columns, device=ids_BT.device).repeat(rows)
    keep_N = layout.row_N * columns + layout.column_N
    outputs = [draft(embed_MD, fused_MD, position_M, attend, keep_N)]
    for step, alive in enumerate(layout.alive_S[1:], start=1):
        row_N, column_N = layout.row_N[:alive], layout.column_N[:alive]
        embed_ND = embed_VD[padded_BT[row_N, column_N + 1 + step]].to(fused_MD.dtype)
        outputs.append(draft(embed_ND, outputs[-1][:alive], column_N + step, attend))
    return torch.cat(outputs)


def _lifetimes(count: int, num_steps: int, survival: float, generator: torch.Generator | None) -> Tensor:
    """How many steps each position is simulated: step 0 always, one more with probability `survival`, and so on."""
    if survival == 1:
        return torch.full((count,), num_steps)
    exponent_N = torch.rand(count, generator=generator).log() / math.log(survival)
    return exponent_N.clamp(max=num_steps - 1).long() + 1


def _ranges(starts: list[int], stops: list[int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the positions starts[b]..stops[b] - 1 of each row b."""
    spans = [torch.arange(start, max(start, stop)) for start, stop in zip(starts, stops, strict=True)]
    rows = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor([len(span) for span in spans]))
    return rows, torch.cat(spans)
