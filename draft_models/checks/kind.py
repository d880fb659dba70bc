"""What kind of draft it is: whose format, which algorithm, and whether SGLang has that architecture at all."""

from draft_models.checks.facts import Facts
from draft_models.checks.finding import Finding, error
from draft_models.formats import eagle, speculators
from draft_models.formats.sglang import ARCHITECTURE

EAGLE3, EAGLE = "EAGLE3", "EAGLE"


def algorithm(facts: Facts) -> str | None:
    """The --speculative-algorithm this draft needs: EAGLE3, EAGLE (for EAGLE-1 and EAGLE-2), None if it is neither."""
    if facts.found.get("architectures") == [ARCHITECTURE]:
        return EAGLE3
    if any(str(name).endswith("ForCausalLMEagle") for name in _list(facts.found.get("architectures"))):
        return EAGLE
    if eagle.is_eagle_1(facts.shapes):
        return EAGLE
    return EAGLE3 if len(facts.shapes.get("fc.weight", ())) == 2 else None


def is_speculators(facts: Facts) -> bool:
    """The format of vLLM's speculators, which SGLang does not read."""
    return speculators.recognises(facts.found, frozenset(facts.headers))


def kind(facts: Facts, served_with: str) -> list[Finding]:
    """Findings about format, algorithm, architecture and norm_before_residual."""
    findings = [*_norm_before_residual(facts)]
    needed = algorithm(facts)
    if is_speculators(facts):
        what = "config.json is in the format of vLLM's speculators"
        wrong = "SGLang reads neither speculators_config nor transformer_layer_config, and cannot build the draft"
        return [error("speculators_format", what, wrong, "Run `aerie-draft import`"), *findings]
    if needed == EAGLE and served_with == EAGLE3:
        what = "this is a draft of EAGLE-1 or EAGLE-2, not of EAGLE-3"
        wrong = "Under EAGLE3 SGLang starts it with random features, and accepts nothing"
        mend = "Serve it with --speculative-algorithm EAGLE, or use an EAGLE-3 draft"
        return [error("eagle1_draft", what, wrong, mend), *findings]
    if needed == EAGLE3 and served_with != EAGLE3:
        what = f"this is an EAGLE-3 draft, to be served with --speculative-algorithm {served_with}"
        wrong = "SGLang starts, says nothing, and accepts nothing: acceptance length 1.00 (sgl-project/sglang#21272)"
        findings.append(error("algorithm", what, wrong, "Serve it with --speculative-algorithm EAGLE3"))
    if facts.found.get("architectures") != [ARCHITECTURE] and needed != EAGLE:
        what = f"architectures is {facts.found.get('architectures')}, not ['{ARCHITECTURE}']"
        wrong = "SGLang would load another architecture, skip its tensors and accept nothing, silently"
        mend = "Run `aerie-draft import` if this is an EAGLE-3 draft"
        findings.append(error("architecture", what, wrong, mend))
    return findings


def _norm_before_residual(facts: Facts) -> list[Finding]:
    if not facts.found.get("norm_before_residual") and not facts.eagle_config.get("norm_before_residual"):
        return []
    what = "the draft was trained with norm_before_residual (speculators' default)"
    wrong = "SGLang adds the residual before the norm, so every proposal would be wrong, silently"
    mend = "There is no conversion: use another draft, or train one with --no-norm-before-residual"
    return [error("norm_before_residual", what, wrong, mend)]


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []
