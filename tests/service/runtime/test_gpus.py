"""Which GPUs settings fit."""

import pytest

from service.runtime import gpus, profiles
from service.runtime.gpus import Gpu, GpuError

H100 = "NVIDIA H100 80GB HBM3, 9.0, 570.86.15\n"
B200 = "NVIDIA B200, 10.0, 570.86.15\n"
A100 = "NVIDIA A100-SXM4-80GB, 8.0, 535.183.01\n"


def test_what_nvidia_smi_says_is_read_line_by_line() -> None:
    assert gpus.parse(H100 + B200) == [
        Gpu("NVIDIA H100 80GB HBM3", 9, "570.86.15"),
        Gpu("NVIDIA B200", 10, "570.86.15"),
    ]


@pytest.mark.parametrize(
    ("profile", "lines"), [("h100", H100), ("h100", A100), ("h200", H100), ("b200", B200), ("b200", H100)]
)
def test_a_shipped_profile_fits_gpus_that_its_attention_backend_runs_on(profile: str, lines: str) -> None:
    gpus.check(profiles.load(profile, {}), gpus.parse(lines))


@pytest.mark.parametrize(
    ("profile", "lines", "sentence"),
    [
        ("h100", B200, "attention_backend: fa3 does not run on NVIDIA B200 .* use trtllm_mha with eagle_topk=1"),
        ("b200", A100, "attention_backend: trtllm_mha does not run on NVIDIA A100-SXM4-80GB .* use fa3"),
        ("h100", "", "tp_size: 1 GPUs are needed here, 0 found"),
    ],
)
def test_gpus_that_do_not_fit_are_refused_before_a_model_is_loaded(profile: str, lines: str, sentence: str) -> None:
    with pytest.raises(GpuError, match=sentence):
        gpus.check(profiles.load(profile, {}), gpus.parse(lines))


def test_each_of_several_nodes_needs_its_own_part_only() -> None:
    config = profiles.load("h100", {"tp_size": 2, "nodes": 2})
    gpus.check(config, gpus.parse(H100))


def test_a_backend_of_which_nothing_is_known_is_left_to_sglang() -> None:
    gpus.check(profiles.load("h100", {"attention_backend": "flashinfer"}), gpus.parse(B200))


def test_a_driver_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "QUERY", ("sh", "-c", "echo Driver/library version mismatch; exit 18"))
    with pytest.raises(GpuError, match=r"nvidia-smi fails \(Driver/library version mismatch\)"):
        gpus.find()
    monkeypatch.setattr(gpus, "QUERY", ("a-program-that-is-not-there",))
    with pytest.raises(GpuError, match="nvidia-smi does not answer"):
        gpus.find()
