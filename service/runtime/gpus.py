"""The GPUs of this machine, as nvidia-smi tells of them, and whether a runtime's settings fit them.

Owns which compute capabilities an attention backend runs on: SGLang 0.5.23 asserts it, some of it after the model was
loaded (`srt/layers/attention/attention_registry.py` fa3, `srt/arg_groups/attention_hook.py` trtllm_mha). Refuses to own
whether there is a driver at all (preflight.py).
"""

import subprocess
from typing import NamedTuple

from service.runtime.config import RuntimeConfig

QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
TIMEOUT_S = 60

GENERATIONS = {"fa3": (8, 9), "trtllm_mha": (9, 10, 12)}
"""Attention backend to the major compute capabilities that it runs on; of others nothing is known here."""
INSTEAD = {"fa3": "trtllm_mha with eagle_topk=1, or flashinfer", "trtllm_mha": "fa3"}


class Gpu(NamedTuple):
    """One of them. `generation` is the major compute capability: 8 Ampere and Ada, 9 Hopper, 10 and 12 Blackwell."""

    name: str
    generation: int
    driver: str


class GpuError(Exception):
    """The GPUs cannot run these settings; the message says which setting to change."""


def find() -> list[Gpu]:
    """Those that this process may use.

    Raises:
        GpuError: the driver does not answer.
    """
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).strip().splitlines() or [f"exit status {error.returncode}"]
        raise GpuError(f"device: nvidia-smi fails ({said[-1]}); mend the driver, or use --profile cpu") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"device: nvidia-smi does not answer ({error}); mend the driver") from None
    return parse(done.stdout)


def parse(lines: str) -> list[Gpu]:
    """What nvidia-smi answers to QUERY: a line for each."""
    fields = [[field.strip() for field in line.split(",")] for line in lines.splitlines() if line.strip()]
    return [Gpu(name, int(capability.partition(".")[0]), driver) for name, capability, driver in fields]


def check(config: RuntimeConfig, found: list[Gpu]) -> None:
    """Whether there are enough of them, and of a kind that the attention backend runs on.

    Raises:
        GpuError: there are too few, or they are of another generation.
    """
    needed = config.tp_size * config.pp_size // config.nodes
    if len(found) < needed:
        raise GpuError(f"tp_size: {needed} GPUs are needed here, {len(found)} found; use a smaller tp_size")
    backend = config.attention_backend or ""
    for gpu in found[:needed]:
        if gpu.generation not in GENERATIONS.get(backend, (gpu.generation,)):
            raise GpuError(
                f"attention_backend: {backend} does not run on {gpu.name} (compute capability {gpu.generation}.x, "
                f"driver {gpu.driver}); use {INSTEAD[backend]}"
            )
