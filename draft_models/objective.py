# ruff: noqa: N803, N806, N812, N815  shape suffixes
"""What training minimises: the unrolled draft judged by the target's distribution at every step.

`Objective` is one module whose forward pass holds all trained weights, so that FSDP gathers and scatters them around
one call, and everything else (the layout, the features) is data. Validation is the same pass without dropped positions.

The feature constraint of EAGLE and HASS, which EAGLE-3 drops (section 3.1), is here for the ablations of Table 2: an
output has to be what the draft would have made of the target's own features of the same token, since that is what it
stands in for at the next step.

Shapes: B rows, T tokens, R references, O outputs, X predictions (unroll.py), D hidden size, F tap features,
W draft vocabulary, V target vocabulary, S steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from draft_models import vocab
from draft_models.config import TrainConfig
from draft_models.loss import soft_cross_entropy
from draft_models.model import DraftModel
from draft_models.target import Features, Target
from draft_models.unroll import Layout, unroll


@dataclass(frozen=True)
class Judgement:
    """The loss of a batch, and which predictions are the target's likeliest token (no gradient)."""

    loss: Tensor
    hit_X: Tensor
    proposal_X: Tensor
    """Target token ids."""


class Objective(nn.Module):
    """The draft, and how it is judged against one target."""

    def __init__(self, draft: DraftModel, target: Target, config: TrainConfig) -> None:
        super().__init__()
        self.draft, self.config = draft, config
        self.dtype = getattr(torch, config.compute_dtype)
        self.embed_VD = target.embed_VD.detach()  # no parameter of this module
        self.reference_head_WD = target.head_VD[draft.t2d].to(self.dtype)
        self.draft_ids_V = vocab.draft_ids(draft.t2d)

    def forward(self, ids_BT: Tensor, features: Features, layout: Layout) -> Judgement:
        """Judge the draft on a batch of rows; a position that is simulated to step s counts for step s."""
        config, draft = self.config, self.draft
        likeliest_R = features.likeliest_BT[layout.row_R, layout.column_R]
        known_X = draft.t2d[likeliest_R][layout.reference_X]
        weight_X = (config.position_decay / layout.survival) ** layout.step_X / max(1, len(likeliest_R))
        with torch.autocast(ids_BT.device.type, self.dtype, enabled=self.dtype != torch.float32):
            fused_MD = draft.fuse(features.taps_BTF.to(self.dtype).flatten(0, 1))
            output_XD = unroll(draft, self.embed_VD, ids_BT, fused_MD, layout)[layout.output_X]
            judged = soft_cross_entropy(
                draft.norm(output_XD),
                draft.lm_head.weight,
                features.final_BTD[layout.row_R, layout.column_R],
                self.reference_head_WD,
                layout.reference_X,
                known_X * weight_X,
            )
        hit_X = known_X & (judged.proposal_X == self.draft_ids_V[likeliest_R][layout.reference_X])
        loss = judged.loss
        if config.feature_weight:
            place_X = (layout.row_R * ids_BT.shape[1] + layout.column_R)[layout.reference_X]
            distance_X = F.smooth_l1_loss(output_XD, fused_MD.detach()[place_X], reduction="none").float().mean(-1)
            loss = loss + config.feature_weight * (distance_X * weight_X).sum()
        return Judgement(loss, hit_X, draft.target_ids(judged.proposal_X))


def shares(hit_X: Tensor, step_X: Tensor, num_steps: int) -> list[float]:
    """Per step, the share of predictions that hit."""
    hits_S = torch.bincount(step_X, weights=hit_X.float(), minlength=num_steps)
    total_S = torch.bincount(step_X, minlength=num_steps).clamp(min=1)
    return (hits_S / total_S).tolist()
