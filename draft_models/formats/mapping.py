# ruff: noqa: N803, N806  shape suffixes
"""d2t and t2d of a published draft, completed: a full vocabulary has neither, and t2d follows from d2t.

Owns what may be rebuilt; what makes a mapping wrong is vocab.py's. Refuses to guess a d2t for a reduced vocabulary.

Shapes: V target vocabulary, W draft vocabulary.
"""

import torch
from torch import Tensor

from draft_models import vocab
from draft_models.formats.report import Action, Fate

FAILURES = {
    "d2t_missing": ("d2t", Action.MISSING),
    "d2t_shape": ("d2t", Action.SHAPE),
    "t2d_shape": ("t2d", Action.SHAPE),
    "d2t_t2d": ("t2d", Action.REFUSED),
}
"""By the code of `vocab.fault`; all others refuse d2t."""


def complete(
    d2t: Tensor | None, t2d: Tensor | None, draft_vocab_size: int, vocab_size: int
) -> tuple[Tensor, Tensor, list[Fate]]:
    """d2t_W, t2d_V and what became of them; blank ones where a fate is a failure."""
    if draft_vocab_size == vocab_size and (d2t is None or not d2t.any()):
        return _full(d2t, t2d, vocab_size)
    known_V = torch.zeros(vocab_size, dtype=torch.bool)
    if fault := vocab.fault(d2t, t2d, draft_vocab_size, vocab_size):
        code, why = fault
        name, action = FAILURES.get(code, ("d2t", Action.REFUSED))
        return torch.zeros(draft_vocab_size, dtype=torch.long), known_V, [Fate(name, action, name, why)]
    assert d2t is not None
    known_V[vocab.target_ids(d2t)] = True
    fate = Fate("t2d", Action.REBUILT, "t2d", "from d2t") if t2d is None else Fate("t2d", Action.KEPT, "t2d")
    return d2t.long(), known_V, [Fate("d2t", Action.KEPT, "d2t"), fate]


def _full(d2t: Tensor | None, t2d: Tensor | None, vocab_size: int) -> tuple[Tensor, Tensor, list[Fate]]:
    known_V = torch.ones(vocab_size, dtype=torch.bool)
    why = "the draft knows the whole vocabulary"
    fates = [
        Fate(name, Action.KEPT if same else Action.REBUILT, name, "" if same else why)
        for name, same in (("d2t", d2t is not None and len(d2t) == vocab_size), ("t2d", _equal(t2d, known_V)))
    ]
    return vocab.offsets(known_V), known_V, fates


def _equal(t2d: Tensor | None, known_V: Tensor) -> bool:
    return t2d is not None and t2d.shape == known_V.shape and torch.equal(t2d.bool(), known_V)
