"""What must hold on this machine before a runtime starts: ports, memory, a GPU where one is asked for, the draft.

Every check raises `PreflightError` with one sentence that names the cause and a remedy. Rules between settings are
`RuntimeConfig`'s; a draft's weights are checked in depth by `aerie-draft check`.
"""

import errno
import json
import shutil
import socket
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from service.runtime import gpus
from service.runtime.config import RuntimeConfig
from service.speculation import Algorithm, SpeculativeConfig

EAGLE3_ARCHITECTURE = "LlamaForCausalLMEagle3"


class PreflightError(Exception):
    """This machine, or what was named on the command line, cannot run the runtime."""


def check(config: RuntimeConfig) -> None:
    """Every check that needs only this machine and the files named, in the order of what is cheapest to mend.

    Raises:
        PreflightError: the first check that failed.
    """
    check_port(config.host, config.port, "RUNTIME_PORT")
    check_draft(config.speculation)
    check_memory(config.min_memory_gib)
    if config.device == "cuda":
        check_cuda()
        check_gpus(config)


def check_gpus(config: RuntimeConfig) -> None:
    """Raises PreflightError where the GPUs here cannot run these settings."""
    try:
        gpus.check(config, gpus.find())
    except gpus.GpuError as error:
        raise PreflightError(str(error)) from None


def check_cuda() -> None:
    """Raises PreflightError where there is no GPU, or an environment that was set up for the CPU."""
    if shutil.which("nvidia-smi") is None:
        raise PreflightError("device: no NVIDIA driver here (nvidia-smi is missing); use --profile cpu")
    if find_spec("sgl_kernel") is None:  # ours for CPU is not on the path of this process
        raise PreflightError(
            "device: SGLang's GPU kernels are not installed in this environment; run `pip install .` and `aerie` where "
            "SGLang 0.5.23 is installed for GPUs, in its published image for instance"
        )


def check_port(host: str, port: int, name: str) -> None:
    """Raises PreflightError where the port cannot be listened on."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError as error:
            reason = (
                "is taken by another process"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used: {error.strerror}"
            )
            raise PreflightError(f"port: {host}:{port} {reason}; choose another with {name}=") from None


def check_memory(min_memory_gib: float) -> None:
    """Raises PreflightError where less memory is available than the profile needs."""
    available_gib = available_bytes() / 2**30
    if available_gib < min_memory_gib:
        raise PreflightError(
            f"memory: {available_gib:.1f} GiB available, {min_memory_gib:.1f} needed; end other programs, or use a "
            "smaller max_total_tokens and min_memory_gib in a profile of your own"
        )


def available_bytes() -> int:
    """Memory that can be had: what the kernel says, or less where a control group (a container) limits it."""
    available: int = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return available
    return min(available, limit - used)


def check_draft(speculation: SpeculativeConfig) -> None:
    """Raises PreflightError for a local draft that SGLang would crash on, or accept and never agree with."""
    if speculation.draft is None or not _is_local(speculation.draft):
        return
    folder = Path(speculation.draft)
    if not folder.is_dir():
        raise PreflightError(f"draft: there is no directory {folder}; name one with --draft, or use --no-speculation")
    settings = _json(folder / "config.json")
    is_eagle3 = EAGLE3_ARCHITECTURE in settings.get("architectures", [])
    if is_eagle3 and speculation.algorithm is not Algorithm.EAGLE3:
        raise PreflightError(
            f"algorithm: {folder} is an EAGLE-3 draft; under {speculation.algorithm} SGLang accepts nothing and does "
            "not say so (sgl-project/sglang#21272); use algorithm EAGLE3"
        )
    if speculation.algorithm is Algorithm.EAGLE3:
        if not is_eagle3:
            raise PreflightError(
                f"draft: {folder} is no EAGLE-3 draft: its config.json does not name {EAGLE3_ARCHITECTURE}"
            )
        _check_eagle3(folder, settings)


def _check_eagle3(folder: Path, settings: dict[str, Any]) -> None:
    weights = folder / "model.safetensors"
    tensors = _safetensors_header(weights)
    draft_vocab, vocab = settings.get("draft_vocab_size"), settings.get("vocab_size")
    if draft_vocab not in (None, vocab) and "d2t" not in tensors:
        raise PreflightError(
            f"draft: {weights} has no d2t, so its {draft_vocab} draft ids would be taken for target ids"
        )
    if not any(name in tensors for name in ("fc.weight", "model.fc.weight")):
        raise PreflightError(f"draft: {weights} has no fc.weight, so SGLang would run it with random features")


def _is_local(draft: str) -> bool:
    return Path(draft).exists() or Path(draft).is_absolute() or draft.startswith((".", "~", "draft_models/"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PreflightError(f"draft: {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise PreflightError(f"draft: {path} is no JSON object")
    return content


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Names, dtypes and shapes of a safetensors file (8 bytes of length, then JSON), without its weights."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
    except (OSError, ValueError, struct.error) as error:
        raise PreflightError(f"draft: {path} is no safetensors file: {error}") from None
    return header
