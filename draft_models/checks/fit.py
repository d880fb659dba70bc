"""Whether the draft fits its target: sizes, vocabularies, positions, dtype, chat template."""

from typing import Any

from draft_models.checks.facts import Facts
from draft_models.checks.finding import Finding, error, warning
from draft_models.checks.layout import NEEDED

WRONG_TARGET = "It was trained for another target: start-up fails, or nothing is accepted"
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def fit(facts: Facts, template_sha256: str | None) -> list[Finding]:
    """Every way in which config.json does not fit."""
    return [
        *_values(facts),
        *_sizes(facts),
        *_draft_vocab_size(facts),
        *_tied(facts),
        *_positions(facts),
        *_dtype(facts),
        *_template(facts, template_sha256),
    ]


def _values(facts: Facts) -> list[Finding]:
    findings = []
    for name in NEEDED:
        value = facts.found.get(name)
        if value is None:
            what, wrong = f"{name} is missing", "SGLang takes the default of LlamaConfig, that of another model"
            findings.append(error("config_key", what, wrong, "Write the draft's own"))
        elif type(value) is not int or value < 1:
            what, wrong = f"{name} is {value!r}, not a whole number above 0", "SGLang does not start"
            findings.append(error("config_value", what, wrong, "Write the draft's own"))
    if facts.found.get("hidden_act") not in (None, "silu"):
        what = f"hidden_act is {facts.found['hidden_act']!r}"
        findings.append(
            error("hidden_act", what, "SGLang's draft has silu only, and does not start", "Use another draft")
        )
    return findings


def _sizes(facts: Facts) -> list[Finding]:
    findings = []
    hidden, vocab = facts.number("hidden_size"), facts.number("vocab_size")
    if "target_hidden_size" in facts.found and facts.number("target_hidden_size") is None:
        what = f"target_hidden_size is {facts.found['target_hidden_size']!r}"
        wrong, mend = "SGLang multiplies by it and does not start", "Remove the key, or write the target's hidden_size"
        findings.append(error("target_hidden_size", what, wrong, mend))
    reads = facts.number("target_hidden_size") or hidden
    if reads is not None and reads != facts.target.hidden_size:
        name = "hidden_size" if "target_hidden_size" not in facts.found else "target_hidden_size"
        what = f"{name} is {reads}, the target's is {facts.target.hidden_size}"
        findings.append(error("hidden_size", what, WRONG_TARGET, "Use the draft of this target"))
    if vocab is not None and vocab != facts.target.vocab_size:
        what = f"vocab_size is {vocab}, the target's is {facts.target.vocab_size}"
        findings.append(error("vocab_size", what, WRONG_TARGET, "Use the draft of this target"))
    return findings


def _draft_vocab_size(facts: Facts) -> list[Finding]:
    if "draft_vocab_size" not in facts.found:
        what, wrong = "draft_vocab_size is absent", "SGLang asks for it and does not start"
        return [
            error("draft_vocab_size_absent", what, wrong, "Write the rows of lm_head, or null for the target's head")
        ]
    value = facts.found["draft_vocab_size"]
    if value is None:
        what = "draft_vocab_size is null"
        wrong = "SGLang proposes through the target's lm_head, and skips the draft's own if it has one"
        return [warning("draft_vocab_size_null", what, wrong, "Write the rows of the draft's lm_head if it has one")]
    if type(value) is not int or not 1 <= value <= (facts.number("vocab_size") or value):
        what = f"draft_vocab_size is {value!r}, of a vocabulary of {facts.found.get('vocab_size')}"
        return [
            error("draft_vocab_size", what, "SGLang does not start, or proposes no token", "Write the rows of lm_head")
        ]
    return []


def _tied(facts: Facts) -> list[Finding]:
    if not facts.found.get("tie_word_embeddings"):
        return []
    what = "tie_word_embeddings is true"
    if any(name.endswith("lm_head.weight") for name in facts.headers):
        wrong = "SGLang proposes through the embedding and skips the draft's lm_head, silently"
        return [error("tied_head", what, wrong, "Set it to false")]
    wrong = "The draft proposes through the embedding, over the whole vocabulary"
    return [warning("tied_head", what, wrong, "Set it to false if the draft has an lm_head")]


def _positions(facts: Facts) -> list[Finding]:
    positions, context = facts.number("max_position_embeddings"), _number(facts.target, "max_position_embeddings")
    if positions is None or context is None or positions >= context:
        return []
    what = f"max_position_embeddings is {positions}, the target's context {context}"
    wrong = "SGLang refuses to start, and where that is overridden acceptance falls beyond the draft's positions"
    return [error("positions", what, wrong, "Set it to the target's; acceptance at that length has to be measured")]


def _dtype(facts: Facts) -> list[Finding]:
    weights = [header.dtype for name, header in facts.headers.items() if name.endswith(".weight")]
    named = facts.found.get("dtype", facts.found.get("torch_dtype"))
    found = sorted({DTYPES.get(kind, kind) for kind in weights}) or [str(named)] * (named is not None)
    wanted = str(facts.target.dtype).removeprefix("torch.")
    if wanted in ("None", "float32") or not found or found == [wanted]:  # SGLang itself rounds a float32 target
        return []
    what = f"the draft's weights are {' and '.join(found)}, the target is {wanted}"
    wrong = "SGLang rounds them to the dtype it runs in; under --dtype auto the two models run in different ones"
    mend = "Name the dtype in the profile, or convert the draft with `aerie-draft import`"
    return [warning("dtype", what, wrong, mend)]


def _template(facts: Facts, template_sha256: str | None) -> list[Finding]:
    aerie = facts.found.get("aerie")
    trained = aerie.get("chat_template_sha256") if isinstance(aerie, dict) else None
    if trained is None or template_sha256 is None:
        side = "the draft does not say under which it was trained" if trained is None else "the target has none here"
        what, wrong = f"no chat template to compare: {side}", "A draft trained under another template is a bad draft"
        return [warning("template_unknown", what, wrong, "Measure it with `aerie-draft evaluate`")]
    if trained == template_sha256:
        return []
    what = "the chat template is not the one the draft was trained under"
    mend = "Serve that template, or train again under this one"
    return [warning("template_differs", what, "Acceptance falls, silently", mend)]


def _number(config: Any, name: str) -> int | None:  # noqa: ANN401  a target of any architecture
    value = getattr(config, name, None)
    return value if type(value) is int else None
