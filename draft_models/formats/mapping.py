# ruff: noqa: N803, N806  shape suffixes
"""d2t and t2d of a published draft, completed: a full vocabulary has neither, and t2d follows from d2t.

Owns what may be rebuilt and what makes a mapping wrong. Refuses to guess a d2t for a reduced vocabulary.

Shapes: V target vocabulary, W draft vocabulary.
"""

import torch
from torch import Tensor

from draft_models import vocab
from draft_models.formats.report import Action, Fate


def complete(
    d2t: Tensor | None, t2d: Tensor | None, draft_vocab_size: int, vocab_size: int
) -> tuple[Tensor, Tensor, list[Fate]]:
    """d2t_W, t2d_V and what became of them; blank ones where a fate is a failure."""
    if draft_vocab_size == vocab_size and (d2t is None or not d2t.any()):
        return _full(d2t, t2d, vocab_size)
    problem = _problem(d2t, draft_vocab_size, vocab_size)
    if problem is not None:
        blank_W, blank_V = torch.zeros(draft_vocab_size, dtype=torch.long), torch.zeros(vocab_size, dtype=torch.bool)
        return blank_W, blank_V, [problem]
    assert d2t is not None
    known_V = torch.zeros(vocab_size, dtype=torch.bool)
    known_V[target_ids(d2t)] = True
    return d2t.long(), known_V, [Fate("d2t", Action.KEPT, "d2t"), _fate_of_t2d(t2d, known_V)]


def target_ids(d2t_W: Tensor) -> Tensor:
    """[W]: the target's id of every draft id; d2t is an offset."""
    return d2t_W.long() + torch.arange(len(d2t_W))


def _full(d2t: Tensor | None, t2d: Tensor | None, vocab_size: int) -> tuple[Tensor, Tensor, list[Fate]]:
    known_V = torch.ones(vocab_size, dtype=torch.bool)
    why = "the draft knows the whole vocabulary"
    fates = [
        Fate(name, Action.KEPT if same else Action.REBUILT, name, "" if same else why)
        for name, same in (("d2t", d2t is not None and len(d2t) == vocab_size), ("t2d", _equal(t2d, known_V)))
    ]
    return vocab.offsets(known_V), known_V, fates


def _problem(d2t: Tensor | None, draft_vocab_size: int, vocab_size: int) -> Fate | None:
    if d2t is None:
        why = f"without it the {draft_vocab_size} draft ids cannot be told from the target's {vocab_size}"
        return Fate("d2t", Action.MISSING, "d2t", why)
    if d2t.shape != (draft_vocab_size,) or d2t.is_floating_point() or d2t.is_complex():
        return Fate("d2t", Action.SHAPE, "d2t", f"{_kind(d2t)}, not whole numbers [{draft_vocab_size}]")
    ids_W = target_ids(d2t)
    if int(ids_W.min()) < 0 or int(ids_W.max()) >= vocab_size:
        found = f"{int(ids_W.min())}..{int(ids_W.max())}"
        return Fate("d2t", Action.REFUSED, "d2t", f"i + d2t[i] is {found}, not within the target's 0..{vocab_size - 1}")
    if not bool((ids_W.diff() > 0).all()):
        return Fate(
            "d2t", Action.REFUSED, "d2t", "i + d2t[i] has to rise with i; is it in another order, or no offset?"
        )
    return None


def _fate_of_t2d(t2d: Tensor | None, known_V: Tensor) -> Fate:
    if t2d is None:
        return Fate("t2d", Action.REBUILT, "t2d", "from d2t")
    if t2d.shape != known_V.shape:
        return Fate("t2d", Action.SHAPE, "t2d", f"{_kind(t2d)}, not [{len(known_V)}]")
    if not _equal(t2d, known_V):
        return Fate("t2d", Action.REFUSED, "t2d", "it does not name the tokens that d2t does (d2t is an offset)")
    return Fate("t2d", Action.KEPT, "t2d")


def _equal(t2d: Tensor | None, known_V: Tensor) -> bool:
    return t2d is not None and t2d.shape == known_V.shape and torch.equal(t2d.bool(), known_V)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
