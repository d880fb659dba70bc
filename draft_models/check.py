"""`aerie-draft check TARGET DRAFT`: what SGLang would not say about a draft (docs/sglang.md, "silent failures").

Reads config.json, the headers of model.safetensors and the two small vocabulary tensors: no weights in memory, and of
the target its configuration alone. Every finding says what would happen in production and how to mend it. Owns the
order of the checks; refuses to repair.
"""

from pathlib import Path

from transformers import PretrainedConfig

from draft_models.checks.facts import Facts, read_facts
from draft_models.checks.finding import Finding
from draft_models.checks.fit import fit
from draft_models.checks.kind import EAGLE3, algorithm, is_speculators, kind
from draft_models.checks.taps import taps
from draft_models.checks.tensors import tensors


def check(
    target: PretrainedConfig, template_sha256: str | None, directory: Path, served_with: str = EAGLE3
) -> list[Finding]:
    """Everything that can be found without weights.

    Args:
        target: the (text) configuration of the target.
        template_sha256: of the target's chat template, None if it is not at hand.
        directory: the draft's.
        served_with: the --speculative-algorithm it is to run under.

    Raises:
        CheckpointError: the directory holds no draft at all.
    """
    facts, findings = read_facts(directory, target)
    if _is_other(facts):
        return kind(facts, served_with)
    return [*kind(facts, served_with), *fit(facts, template_sha256), *taps(facts), *findings, *tensors(facts)]


def _is_other(facts: Facts) -> bool:
    """Of a format or an algorithm whose settings mean something else."""
    return is_speculators(facts) or algorithm(facts) not in (EAGLE3, None)
