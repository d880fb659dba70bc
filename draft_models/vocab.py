# ruff: noqa: N803, N806  shape suffixes
"""The draft's reduced vocabulary (FR-Spec, arXiv 2502.14856; EAGLE-3's d2t and t2d).

The draft proposes only the tokens that the target writes most: a smaller head, at the price of never being right about
the rest. `d2t` is an OFFSET, the target's id of draft id i is i + d2t[i]; `t2d` says for each of the target's ids
whether the draft knows it. Draft ids are in the order of the target's ids, so t2d alone determines d2t.

Shapes: V target vocabulary, W draft vocabulary.
"""

import torch
from torch import Tensor

from draft_models.errors import ConfigError


def most_frequent(count_V: Tensor, draft_vocab_size: int) -> Tensor:
    """t2d_V: the `draft_vocab_size` most frequent tokens; ties, and tokens never seen, go to the lower ids."""
    if draft_vocab_size > len(count_V):
        raise ConfigError(f"draft_vocab_size {draft_vocab_size} exceeds the target's {len(count_V)} tokens")
    order_V = torch.argsort(count_V, descending=True, stable=True)
    t2d_V = torch.zeros(len(count_V), dtype=torch.bool)
    t2d_V[order_V[:draft_vocab_size]] = True
    return t2d_V


def offsets(t2d_V: Tensor) -> Tensor:
    """d2t_W for a t2d_V."""
    known_W = t2d_V.nonzero().squeeze(1)
    return known_W - torch.arange(len(known_W))


def draft_ids(t2d_V: Tensor) -> Tensor:
    """[V]: each of the target's ids as a draft id, -1 for those the draft does not know."""
    ids_V = t2d_V.long().cumsum(0) - 1
    return ids_V.masked_fill(~t2d_V, -1)


def coverage(count_V: Tensor, t2d_V: Tensor) -> float:
    """Share of the counted tokens that the draft can propose: the ceiling of 0-alpha."""
    total = int(count_V.sum())
    return float(count_V[t2d_V].sum()) / total if total else 0.0
