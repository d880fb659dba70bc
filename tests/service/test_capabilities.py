"""The capability table: complete, sourced, and saying the known facts about SGLang 0.5.23."""

import subprocess
import sys

import pytest

from service.capabilities import TABLE, Feature, RuntimeFacts, Support, decide, first_refusal

CPU = RuntimeFacts(algorithm="EAGLE3", device="cpu")
GPU = RuntimeFacts(algorithm="EAGLE3", device="cuda")
PLAIN_GPU = RuntimeFacts(algorithm="NONE", device="cuda")
OLD = RuntimeFacts(version="0.5.9", algorithm="EAGLE3")
DETERMINISTIC = RuntimeFacts(algorithm="EAGLE3", device="cuda", deterministic=True)


@pytest.mark.parametrize("facts", [CPU, GPU, PLAIN_GPU, DETERMINISTIC, OLD, RuntimeFacts()])
@pytest.mark.parametrize("feature", Feature)
def test_every_feature_is_decided_on_every_runtime(feature, facts):
    rule = decide(feature, facts)
    assert rule.source
    assert rule.sentence or rule.support is Support.SUPPORTED


def test_the_last_row_of_a_feature_holds_everywhere():
    for feature in Feature:
        last = [rule for rule in TABLE if rule.feature is feature][-1]
        assert all(last.when(facts) for facts in (CPU, GPU, PLAIN_GPU, DETERMINISTIC)) or feature is Feature.TOOLS


@pytest.mark.parametrize(
    ("feature", "facts", "support"),
    [
        (Feature.SEED, CPU, Support.SUPPORTED),
        (Feature.SEED, GPU, Support.REFUSED),
        (Feature.SEED, PLAIN_GPU, Support.REFUSED),
        (Feature.SEED, DETERMINISTIC, Support.SUPPORTED),
        (Feature.SEED_WITH_N, CPU, Support.REFUSED),
        (Feature.MIN_P, CPU, Support.SUPPORTED),
        (Feature.MIN_P, GPU, Support.REFUSED),
        (Feature.MIN_P, PLAIN_GPU, Support.SUPPORTED),
        (Feature.MIN_P, RuntimeFacts(device="cuda", deterministic=True), Support.REFUSED),
        (Feature.PENALTIES, CPU, Support.RELAXED),
        (Feature.PENALTIES, PLAIN_GPU, Support.SUPPORTED),
        (Feature.TOOLS, CPU, Support.REFUSED),
        (Feature.TOOLS, RuntimeFacts(tool_call_parser="qwen25"), Support.RELAXED),
        (Feature.REASONING_EFFORT, CPU, Support.REFUSED),
        (Feature.PROMPT_TOKEN_IDS, PLAIN_GPU, Support.REFUSED),
        (Feature.HIDDEN_STATES, CPU, Support.REFUSED),
        (Feature.STRUCTURED_OUTPUT, CPU, Support.SUPPORTED),
        (Feature.LOGPROBS, CPU, Support.SUPPORTED),
        (Feature.STRUCTURED_OUTPUT, OLD, Support.REFUSED),
        (Feature.LOGPROBS, OLD, Support.REFUSED),
        (Feature.LOGPROBS, RuntimeFacts(version="0.5.9"), Support.SUPPORTED),
        (Feature.LOGPROBS, RuntimeFacts(version="0.5.24rc1", algorithm="EAGLE3"), Support.SUPPORTED),
        (Feature.LOGPROBS, RuntimeFacts(version="main-abc", algorithm="EAGLE3"), Support.SUPPORTED),
    ],
)
def test_the_known_facts(feature, facts, support):
    assert decide(feature, facts).support is support


def test_refusals_name_the_flag_that_would_help():
    assert "--enable-deterministic-inference" in decide(Feature.SEED, GPU).sentence
    assert "--tool-call-parser" in decide(Feature.TOOLS, CPU).sentence


@pytest.mark.parametrize("feature", [Feature.LOGPROBS, Feature.STRUCTURED_OUTPUT])
def test_refusals_of_old_versions_name_the_one_that_serves(feature):
    assert "from SGLang 0.5.23 on" in decide(feature, OLD).sentence


def test_the_first_refusal_is_found_and_fine_requests_have_none():
    assert first_refusal([Feature.TOP_K, Feature.SEED, Feature.TOOLS], GPU).feature is Feature.SEED
    assert first_refusal([Feature.TOP_K, Feature.SEED, Feature.PENALTIES], CPU) is None
    assert first_refusal([], CPU) is None


def test_the_table_needs_neither_torch_nor_fastapi():
    program = "import sys, service.capabilities; print({'torch', 'fastapi', 'sglang'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
