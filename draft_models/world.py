"""Where training runs: one process on CPU or one GPU, or several that torchrun started (FSDP, one GPU each).

Owns the process group and the device. Refuses to own anything that is trained.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from draft_models.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among those that train one draft together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def shard(self, module: nn.Module) -> None:
        """Spread weights, gradients and the optimiser's state over the processes; alone, nothing changes."""
        if self.size > 1:
            fully_shard(module, mesh=init_device_mesh(self.device.type, (self.size,)))

    def of_first(self, number: float) -> float:
        """The first process's number: what several decide by must not differ in a bit."""
        if self.size == 1:
            return number
        numbers = [number]
        torch.distributed.broadcast_object_list(numbers, src=0)
        return numbers[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


def join(device: str | None = None) -> World:
    """The world torchrun described in the environment, or this process alone.

    Args:
        device: `cpu` or `cuda`; without it, CUDA where there is a device for it.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; install a CUDA build of torch, or name cpu")
    size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
        torch.backends.cuda.enable_cudnn_sdp(False)  # noqa: FBT003  2 ms of planning for every new shape
    if size == 1:
        return World(torch.device(kind))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    place = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    return World(place, torch.distributed.get_rank(), size)


def leave() -> None:
    """End the process group, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
