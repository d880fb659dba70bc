"""The weights' file against what SGLang builds from config.json, by headers alone; and d2t and t2d themselves."""

from draft_models import vocab
from draft_models.checks.facts import Facts
from draft_models.checks.finding import Finding, error, warning
from draft_models.checks.layout import expected, shares_embedding

SKIPPED = "SGLang skips what it does not know and leaves what is missing at random, silently"
AGAIN = "Export or import the draft again, and compare its configuration"
WRONG_TOKENS = "SGLang would propose wrong tokens, silently"
VOCABULARY = {
    "d2t_missing": (WRONG_TOKENS, AGAIN),
    "d2t_shape": ("SGLang crashes, or proposes wrong tokens", AGAIN),
    "t2d_shape": ("SGLang ignores it; `aerie-draft evaluate` does not load the draft", AGAIN),
    "d2t_ids": (WRONG_TOKENS, "Subtract i from d2t[i]"),
    "d2t_range": ("A token outside of the vocabulary ends SGLang's scheduler", AGAIN),
    "d2t_order": ("Proposals repeat or belong to other rows of lm_head", AGAIN),
    "d2t_t2d": (WRONG_TOKENS, "Find out which one is right, and rebuild the other from it"),
}
"""Consequence and remedy, by the code of `vocab.fault`."""


def tensors(facts: Facts) -> list[Finding]:
    """Missing, unknown and misshapen tensors, then the vocabulary."""
    wanted = expected(facts)
    if not wanted or not facts.headers:
        return []
    found = {name: shape for name, shape in facts.shapes.items() if name not in ("d2t", "t2d")}
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
    if facts.d2t is None and draft_size in (None, size):
        return []
    if fault := vocab.fault(facts.d2t, facts.t2d, draft_size or size, size):
        code, what = fault
        return [error(code, what, *VOCABULARY[code])]
    if facts.t2d is None:
        what, wrong = "tensor t2d is missing", "SGLang does not read it; `aerie-draft evaluate` does"
        return [warning("t2d_missing", what, wrong, "Import the draft: t2d is rebuilt from d2t")]
    return []
