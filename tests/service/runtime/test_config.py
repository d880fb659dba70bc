"""A runtime's settings: what SGLang is told, and which settings are refused before anything starts."""

import json
from pathlib import Path

import pytest
import yaml

from service.runtime import adaptive, profiles
from service.runtime.config import OWNED_FLAGS, RuntimeConfig
from service.runtime.launch import environment
from service.runtime.profiles import ProfileError


def config(**overrides: object) -> RuntimeConfig:
    return profiles.load("cpu", overrides)


@pytest.mark.parametrize("name", profiles.names())
def test_every_shipped_profile_passes_its_own_rules(name: str) -> None:
    loaded = profiles.load(name, {})
    assert loaded.speculation.enabled
    assert "--max-running-requests" in loaded.flags()


def test_the_default_profile_serves_the_embedded_model_with_the_shipped_draft_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draft = config().speculation.draft
    assert draft is not None
    assert (Path(draft) / "model.safetensors").is_file()


def test_every_flag_that_is_passed_is_owned_so_that_extra_arguments_cannot_contradict_it() -> None:
    nodes = {"nodes": 2, "tp_size": 16, "dist_init_addr": "leader:20000"}
    loaded = profiles.load("h100", {"max_total_tokens": 4096, "context_length": 2048, **nodes})
    names = {flag for flag in loaded.flags() if flag.startswith("--") and not flag.startswith("--speculative-")}
    assert names - {"--enable-metrics"} == OWNED_FLAGS


def test_of_several_nodes_only_the_first_serves_and_is_ready_by_ready() -> None:
    settings = {"nodes": 2, "tp_size": 16, "dist_init_addr": "leader:20000"}
    first, second = (profiles.load("h100", {**settings, "node_rank": rank}) for rank in (0, 1))
    assert second.flags()[second.flags().index("--node-rank") + 1] == "1"
    assert (first.ready_path, second.ready_path) == ("/ready", "/health")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"nodes": 2}, "nodes: tp_size [*] pp_size = 1 GPUs do not divide among 2 nodes"),
        ({"nodes": 2, "tp_size": 2, "node_rank": 2}, "node_rank: 2 is none of 2 nodes"),
    ],
)
def test_nodes_that_cannot_share_a_replica_are_refused(overrides: dict[str, object], sentence: str) -> None:
    with pytest.raises(ProfileError, match=sentence):
        profiles.load("h100", overrides)


def test_plain_decoding_still_sets_max_running_requests_so_that_it_compares_with_speculation() -> None:
    plain = config(speculation={"algorithm": "NONE"})
    assert not plain.speculation.enabled
    flags = plain.flags()
    assert flags[flags.index("--max-running-requests") + 1] == "16"
    assert not any(flag.startswith("--speculative-") for flag in flags)


def test_another_algorithm_does_not_inherit_the_profiles_tree() -> None:
    with pytest.raises(ProfileError, match="num_steps: NGRAM needs all three tree numbers"):
        config(speculation={"algorithm": "NGRAM"})


def test_one_number_of_the_tree_can_be_overridden() -> None:
    assert config(speculation={"num_draft_tokens": 16, "eagle_topk": 4}).speculation.tree == "5/4/16"


def test_a_tree_given_by_the_user_is_not_made_adaptive_by_the_profile() -> None:
    lengths = {1: [3], 8: [1]}
    chain = {"num_steps": 3, "eagle_topk": 1, "num_draft_tokens": 4}
    assert config(speculation={**chain, "adaptive": lengths}).speculation.adaptive == {1: (3,), 8: (1,)}
    assert config().speculation.draft_p_min is not None
    for given in (config(speculation=chain), config(speculation={"eagle_topk": 2})):
        assert given.speculation.adaptive is given.speculation.draft_p_min is None
    assert config(speculation={"eagle_topk": 2, "draft_p_min": {1: 0.1}}).speculation.tree == "5/2/8, adaptive"


def test_trees_follow_the_drafts_confidence_on_cpu_only() -> None:
    assert json.loads(environment(config(), print)["AERIE_DRAFT_P_MIN"])["1"] == pytest.approx(0.05)
    with pytest.raises(ProfileError, match="draft_p_min: SGLang's trees have one size on a GPU"):
        config(device="cuda", attention_backend="fa3")


def test_adaptive_lengths_reach_sglang_in_a_file_that_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    chain = {"num_steps": 3, "eagle_topk": 1, "num_draft_tokens": 4, "adaptive": {8: [0, 1], 1: [3]}}
    loaded = config(speculation=chain)
    assert "--speculative-adaptive" in loaded.flags()
    file = Path(loaded.flags()[loaded.flags().index("--speculative-adaptive-config") + 1])
    for _ in range(2):
        assert loaded.speculation.adaptive is not None
        adaptive.write(loaded.speculation.adaptive)
        assert json.loads(file.read_text()) == {"1": {"candidate_steps": [3]}, "8": {"candidate_steps": [0, 1]}}
        assert list(tmp_path.iterdir()) == [file]
    assert config(speculation={**chain, "adaptive": {1: [3]}}).flags() != loaded.flags()


def test_on_cpu_sglang_is_started_through_our_kernels_and_elsewhere_by_itself() -> None:
    assert "service.runtime.cpu.serve" in config().command()
    assert "sglang.launch_server" in profiles.load("h100", {}).command()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"tp_size": 2}, "tp_size: the CPU runtime is one process; use tp_size=1"),
        ({"pp_size": 2}, "pp_size: the CPU runtime is one process; use pp_size=1"),
        ({"attention_backend": "fa3"}, "attention_backend: on CPU only intel_amx"),
        ({"extra_args": ("--port=1",)}, "extra_args: --port is set by Aerie"),
        ({"extra_args": ("--dp-size=2",)}, "extra_args: --dp-size: a replica is one SGLang"),
        ({"extra_args": ("--speculative-num-steps", "9")}, "extra_args: --speculative-num-steps is set by Aerie"),
        ({"page_size": 16, "speculation": {"eagle_topk": 4, "num_draft_tokens": 8}}, "page_size: a tree"),
        ({"dtype": "int4"}, "dtype: input should be 'auto'"),
        ({"port": 70000}, "port: input should be less than or equal to 65535"),
        ({"max_running_requests": 0}, "max_running_requests: input should be greater"),
        ({"colour": "blue"}, "colour: extra inputs are not permitted"),
        ({"speculation": {"eagle_topk": 1}}, "num_draft_tokens: a chain"),
    ],
)
def test_a_broken_rule_is_one_sentence_that_begins_with_the_field(overrides: dict[str, object], sentence: str) -> None:
    with pytest.raises(ProfileError) as refusal:
        config(**overrides)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_pipeline_parallel_eagle3_is_refused_because_sglang_has_none() -> None:
    with pytest.raises(ProfileError, match="pp_size: SGLang's EAGLE3 has no pipeline parallelism"):
        profiles.load("h100", {"pp_size": 2})


@pytest.mark.parametrize("content", ["- a list", "model: [unclosed", "\x00"])
def test_a_broken_profile_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ProfileError, match=r"profile: .*mine\.yaml"):
        profiles.load(str(path), {})


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="use one of b200, cpu, h100"):
        profiles.load("h900", {})


def test_a_profile_file_of_ones_own_works(tmp_path: Path) -> None:
    settings = {**yaml.safe_load((profiles.FOLDER / "cpu.yaml").read_text()), "max_running_requests": 4}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert profiles.load(str(tmp_path / "mine.yaml"), {}).max_running_requests == 4
