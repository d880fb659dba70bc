"""The layers whose hidden states feed the draft, as SGLang counts them (`srt/models/llama.py`: its number plus one)."""

from draft_models.checks.facts import Facts
from draft_models.checks.finding import Finding, error, warning
from draft_models.checks.layout import layers, num_taps
from draft_models.formats.sglang import KEY, written_by_us

COUNTING = "SGLang's number is Hugging Face's hidden_states index less one"


def taps(facts: Facts) -> list[Finding]:
    """Range, order and number, and whether they look like Hugging Face's counting."""
    given, found = facts.eagle_config.get(KEY), layers(facts)
    if facts.eagle_config.get("use_aux_hidden_state") is False:
        what = "use_aux_hidden_state is false"
        wrong = "SGLang feeds the draft the last hidden state and never applies fc"
        return [warning("taps_off", what, wrong, "Remove it unless the draft was trained that way")]
    if given is None:
        return [*_default(facts), *_count(facts)]
    if not found:
        what = f"{KEY} is {given!r}, not a list of layers"
        return [error("taps_value", what, "SGLang captures nothing, or does not start", "Write the layers as numbers")]
    return [*_range(facts, found), *_order(found), *_count(facts), *_counting(facts, found)]


def _default(facts: Facts) -> list[Finding]:
    findings = []
    count = facts.target.num_hidden_layers
    if not 2 < count // 2 < count - 3:
        what = f"there is no {KEY}, and SGLang's default is no three layers of {count}"
        findings.append(error("taps_default", what, "SGLang crashes at the first prompt", f"Write {KEY}; {COUNTING}"))
    if KEY in facts.found:
        what = f"{KEY} stands beside eagle_config, where SGLang does not look"
        wrong = "It captures its default layers, and acceptance falls, silently"
        findings.append(error("taps_place", what, wrong, f"Move it into eagle_config; {COUNTING}"))
    return findings


def _range(facts: Facts, found: list[int]) -> list[Finding]:
    last = facts.target.num_hidden_layers - 2
    outside = [layer for layer in found if not 0 <= layer <= last]
    if not outside:
        return []
    what = f"taps {outside} of {KEY} {found} lie outside of SGLang's 0..{last} for this target"
    wrong = "SGLang captures only what it reaches: fc gets fewer features than it reads, and the first prompt crashes"
    return [error("taps_range", what, wrong, f"Write layers of this target; {COUNTING}")]


def _order(found: list[int]) -> list[Finding]:
    if found == sorted(set(found)):
        return []
    what = f"{KEY} {found} do not rise"
    wrong = "SGLang concatenates features from low to high, once each, whatever the list says"
    return [error("taps_order", what, wrong, "Sort them, and the columns of fc with them")]


def _count(facts: Facts) -> list[Finding]:
    fc = facts.shapes.get("fc.weight")
    size = facts.number("target_hidden_size") or facts.number("hidden_size")
    if fc is None or len(fc) != 2 or not size or fc[1] == num_taps(facts) * size:
        return []
    what = f"fc reads {fc[1]} features, and {num_taps(facts)} taps of {size} make {num_taps(facts) * size}"
    return [error("taps_count", what, "SGLang does not start", f"Write as many layers in {KEY} as fc was trained with")]


def _counting(facts: Facts, found: list[int]) -> list[Finding]:
    count = facts.target.num_hidden_layers
    if written_by_us(facts.found) or found != [2, count // 2, count - 3]:
        return []
    what = f"{KEY} {found} are the usual three as Hugging Face counts them"
    wrong = "If that is what was meant, SGLang captures each one layer too late, and acceptance falls, silently"
    mend = f"Ask how the draft was trained, or measure {[layer - 1 for layer in found]} too; {COUNTING}"
    return [warning("taps_counting", what, wrong, mend)]
