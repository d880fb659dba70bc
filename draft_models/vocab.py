# ruff: noqa: N803, N806  shape suffixes
"""The draft's reduced vocabulary (FR-Spec, arXiv 2502.14856; EAGLE-3's d2t and t2d).

The draft proposes only the tokens that the target writes most: a smaller head, at the price of never being right about
the rest. `d2t` is an OFFSET, the target's id of draft id i is i + d2t[i]; `t2d` says for each of the target's ids
whether the draft knows it. Draft ids are in the order of the target's ids, so t2d alone determines d2t.

Shapes: V target vocabulary, W draft vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from draft_models.data import Row
from draft_models.errors import ConfigError

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def count_tokens(rows: Sequence[Row], vocab_size: int) -> Tensor:
    """How often the target wrote each token, [V]."""
    written = torch.tensor([token for row in rows for token in row.ids[row.response_start :]], dtype=torch.long)
    return torch.bincount(written, minlength=vocab_size)


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


def target_ids(d2t_W: Tensor) -> Tensor:
    """[W]: the target's id of every draft id."""
    return d2t_W.long() + torch.arange(len(d2t_W))


def draft_ids(t2d_V: Tensor) -> Tensor:
    """[V]: each of the target's ids as a draft id, -1 for those the draft does not know."""
    ids_V = t2d_V.long().cumsum(0) - 1
    return ids_V.masked_fill(~t2d_V, -1)


def coverage(count_V: Tensor, t2d_V: Tensor) -> float:
    """Share of the counted tokens that the draft can propose: the ceiling of 0-alpha."""
    total = int(count_V.sum())
    return float(count_V[t2d_V].sum()) / total if total else 0.0


def fault(d2t_W: Tensor | None, t2d_V: Tensor | None, draft_vocab_size: int, vocab_size: int) -> tuple[str, str] | None:
    """(code, sentence) of the first thing that is wrong with a draft's two tensors as they were read; None: nothing is.

    A draft without t2d has no fault: it follows from d2t.
    """
    if d2t_W is None:
        return "d2t_missing", f"tensor d2t is missing, and the draft knows {draft_vocab_size} of {vocab_size} tokens"
    if d2t_W.shape != (draft_vocab_size,) or d2t_W.dtype not in WHOLE:
        return "d2t_shape", f"tensor d2t is {d2t_W.dtype} {list(d2t_W.shape)}, not whole numbers [{draft_vocab_size}]"
    if t2d_V is None:
        return _misplaced(target_ids(d2t_W), vocab_size)
    if t2d_V.shape != (vocab_size,):
        return "t2d_shape", f"tensor t2d is {list(t2d_V.shape)}, not [{vocab_size}]"
    known_W = t2d_V.nonzero().squeeze(1)
    wrong = _misplaced(target_ids(d2t_W), vocab_size) or _disagreement(target_ids(d2t_W), known_W)
    if wrong and torch.equal(d2t_W.long(), known_W):
        return "d2t_ids", "d2t holds the target's ids, and d2t is an offset: target id = i + d2t[i]"
    return wrong


def _misplaced(id_W: Tensor, vocab_size: int) -> tuple[str, str] | None:
    low, high = int(id_W.min()), int(id_W.max())
    if low < 0 or high >= vocab_size:
        return "d2t_range", f"i + d2t[i] is {low}..{high}, not within 0..{vocab_size - 1} (d2t is an offset)"
    if not bool((id_W.diff() > 0).all()):
        what = "i + d2t[i] does not rise strictly: tokens are out of order, or stand there twice (d2t is an offset)"
        return "d2t_order", what
    return None


def _disagreement(id_W: Tensor, known_W: Tensor) -> tuple[str, str] | None:
    if torch.equal(known_W, id_W):
        return None
    return "d2t_t2d", "d2t and t2d do not describe the same tokens (d2t is an offset: target id = i + d2t[i])"
