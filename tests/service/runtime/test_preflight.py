"""What must hold on this machine, each failure one sentence with a remedy."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from service.runtime import preflight, profiles
from service.runtime.preflight import PreflightError
from service.speculation import SpeculativeConfig

SHIPPED = profiles.ROOT / "draft_models" / "smollm2-135m-instruct-eagle3"


def eagle3(draft: Path | str, algorithm: str = "EAGLE3") -> SpeculativeConfig:
    return SpeculativeConfig.model_validate(
        {"algorithm": algorithm, "draft": str(draft), "num_steps": 3, "eagle_topk": 1, "num_draft_tokens": 4}
    )


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "draft"))


def test_a_taken_port_is_named_with_the_variable_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=rf"127\.0\.0\.1:{port} is taken by another process; .* PORT="):
            preflight.check_port("127.0.0.1", port, "PORT")
    preflight.check_port("127.0.0.1", port, "PORT")


def test_an_address_this_machine_does_not_have_is_refused() -> None:
    with pytest.raises(PreflightError, match="cannot be used"):
        preflight.check_port("192.0.2.1", 8000, "PORT")


def test_too_little_memory_says_how_much_there_is_and_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_bytes", lambda: 2**30)
    preflight.check_memory(0.5)
    with pytest.raises(PreflightError, match=r"1\.0 GiB available, 3\.5 needed"):
        preflight.check_memory(3.5)


def test_a_gpu_profile_without_a_gpu_or_without_its_kernels_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "which", lambda _: None)
    with pytest.raises(PreflightError, match=r"no NVIDIA driver here .* use --profile cpu"):
        preflight.check_cuda()
    monkeypatch.setattr(preflight.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    with pytest.raises(PreflightError, match="SGLang's GPU kernels are not installed"):
        preflight.check_cuda()


def test_the_shipped_draft_passes() -> None:
    preflight.check_draft(eagle3(SHIPPED))


def test_a_missing_draft_is_an_error_and_never_a_silent_fall_back(tmp_path: Path) -> None:
    with pytest.raises(
        PreflightError, match=r"there is no directory .*; name one with --draft, or use --no-speculation"
    ):
        preflight.check_draft(eagle3(tmp_path / "nowhere"))


def test_an_eagle3_draft_under_eagle_is_refused_because_sglang_would_accept_nothing_silently(draft: Path) -> None:
    with pytest.raises(PreflightError, match="use algorithm EAGLE3"):
        preflight.check_draft(eagle3(draft, "EAGLE"))


def test_a_draft_without_the_vocabulary_map_is_refused(draft: Path) -> None:
    header = json.dumps({"fc.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (draft / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(PreflightError, match="has no d2t"):
        preflight.check_draft(eagle3(draft))


def test_a_model_that_is_no_eagle3_draft_is_refused(draft: Path) -> None:
    (draft / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(PreflightError, match="is no EAGLE-3 draft"):
        preflight.check_draft(eagle3(draft))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10\0\0\0\0\0\0\0{broken"])
def test_weights_that_are_no_safetensors_file_are_named(draft: Path, content: bytes) -> None:
    (draft / "model.safetensors").write_bytes(content)
    with pytest.raises(PreflightError, match=r"model\.safetensors"):
        preflight.check_draft(eagle3(draft))


def test_a_hub_repository_is_left_to_sglang() -> None:
    preflight.check_draft(eagle3("yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"))
