# ruff: noqa: N803, N806  shape suffixes
"""The weights' file against what SGLang builds from config.json, by headers alone; and d2t and t2d themselves.

Shapes: V target vocabulary, W draft vocabulary.
"""

import torch
from torch import Tensor

from draft_models.checks.facts import Facts
from draft_models.checks.finding import Finding, error, warning
from draft_models.checks.layout import canonical, expected, shares_embedding

SKIPPED = "SGLang skips what it does not know and leaves what is missing at random, silently"
AGAIN = "Export or import the draft again, and compare its configuration"
WRONG_TOKENS = "SGLang would propose wrong tokens, silently"


def tensors(facts: Facts) -> list[Finding]:
    """Missing, unknown and misshapen tensors, then the vocabulary."""
    wanted = expected(facts)
    if not wanted or not facts.headers:
        return []
    found = {canonical(name): header.shape for name, header in facts.headers.items()}
    for name in ("d2t", "t2d"):
        found.pop(name, None)
    return [
        *(
            error("tensor_missing", f"tensor {name} is missing", SKIPPED, AGAIN)
            for name in sorted(wanted.keys() - found)
        ),
        *(_superfluous(facts, name) for name in sorted(found.keys() - wanted)),
        *(
            error(
                "tensor_shape",
                f"tensor {name} is {list(found[name])}, not {list(shape)}",
                "SGLang does not start",
                AGAIN,
            )
            for name, shape in sorted(wanted.items())
            if found.get(name, shape) != shape
        ),
        *_vocabulary(facts),
    ]


def _superfluous(facts: Facts, name: str) -> Finding:
    if name == "embed_tokens.weight" and shares_embedding(facts):
        what = "tensor embed_tokens.weight is there, and the target's embedding is used"
        wrong = "It costs time to load; if it was trained, SGLang drops what it learned"
        return warning("embedding_ignored", what, wrong, "Drop it: `aerie-draft import` does, and compares it first")
    return error("tensor_unknown", f"tensor {name} is unknown", SKIPPED, AGAIN)


def _vocabulary(facts: Facts) -> list[Finding]:
    draft_size, size = facts.number("draft_vocab_size"), facts.number("vocab_size")
    assert size is not None  # there is a layout
    if facts.d2t is None:
        if draft_size in (None, size):
            return []
        what = f"tensor d2t is missing, and the draft knows {draft_size} of {size} tokens"
        return [error("d2t_missing", what, WRONG_TOKENS, AGAIN)]
    return _mapping(facts.d2t, facts.t2d, draft_size or size, size)


def _mapping(d2t_W: Tensor, t2d_V: Tensor | None, draft_size: int, size: int) -> list[Finding]:
    if d2t_W.shape != (draft_size,) or d2t_W.is_floating_point() or d2t_W.dtype is torch.bool:
        what = f"tensor d2t is {d2t_W.dtype} {list(d2t_W.shape)}, not whole numbers [{draft_size}]"
        return [error("d2t_shape", what, "SGLang crashes, or proposes wrong tokens", AGAIN)]
    ids_W = d2t_W.long() + torch.arange(draft_size)
    known_V = None if t2d_V is None else t2d_V.bool()
    if known_V is not None and known_V.shape != (size,):
        what = f"tensor t2d is {list(known_V.shape)}, not [{size}]"
        return [error("t2d_shape", what, "SGLang ignores it; `aerie-draft evaluate` does not load the draft", AGAIN)]
    if known_V is not None and _holds_ids(d2t_W.long(), known_V):
        what = "d2t holds the target's ids, and d2t is an offset: target id = i + d2t[i]"
        return [error("d2t_ids", what, WRONG_TOKENS, "Subtract i from d2t[i]")]
    if int(ids_W.min()) < 0 or int(ids_W.max()) >= size:
        what = f"i + d2t[i] is {int(ids_W.min())}..{int(ids_W.max())}, not within 0..{size - 1} (d2t is an offset)"
        return [error("d2t_range", what, "A token outside of the vocabulary ends SGLang's scheduler", AGAIN)]
    if not bool((ids_W.diff() > 0).all()):
        what = "i + d2t[i] does not rise strictly: tokens are out of order, or stand there twice (d2t is an offset)"
        return [error("d2t_order", what, "Proposals repeat or belong to other rows of lm_head", AGAIN)]
    return _agreement(ids_W, known_V, size)


def _holds_ids(d2t_W: Tensor, known_V: Tensor) -> bool:
    return torch.equal(d2t_W, known_V.nonzero().squeeze(1)) and bool(d2t_W.any()) and not bool(known_V.all())


def _agreement(ids_W: Tensor, known_V: Tensor | None, size: int) -> list[Finding]:
    if known_V is None:
        what, wrong = "tensor t2d is missing", "SGLang does not read it; `aerie-draft evaluate` does"
        return [warning("t2d_missing", what, wrong, "Import the draft: t2d is rebuilt from d2t")]
    wanted_V = torch.zeros(size, dtype=torch.bool)
    wanted_V[ids_W] = True
    if torch.equal(known_V, wanted_V):
        return []
    what = "d2t and t2d do not describe the same tokens (d2t is an offset: target id = i + d2t[i])"
    return [error("d2t_t2d", what, WRONG_TOKENS, "Find out which one is right, and rebuild the other from it")]
