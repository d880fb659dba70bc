"""Several processes (FSDP over gloo, as torchrun starts them) train what one process would on all their batches."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from draft_models.config import TrainConfig
from draft_models.errors import ConfigError
from draft_models.target import padded
from draft_models.trainer import Data, Trainer, learning_rate
from draft_models.world import World, join, leave
from tests.draft_models import tiny

CONFIG = TrainConfig(
    num_steps=3, batch_tokens=64, epochs=2, warmup_batches=2, compute_dtype="float32", validate_every=2
)
STEPS = 3


def trainer(directory: Path, world: World) -> Trainer:
    target, rows = tiny.target(), tiny.rows(14)

    def features(indices):
        ids = padded([rows[index].ids for index in indices])
        return ids, target.features(ids)

    made = Trainer(tiny.draft(target), target, CONFIG, Data(rows, 2, features), directory, world=world)
    made.initialise()
    return made


def train_together(rank: int, size: int, port: int, directory: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = join("cpu")
    try:
        run = trainer(Path(directory), world)
        run.run(until=STEPS - 1)
        run.save()
        resumed = trainer(Path(directory), world)
        resumed.resume()
        resumed.run(until=STEPS)
        resumed.save()
    finally:
        leave()


def averaged(directory: Path) -> dict[str, torch.Tensor]:
    """One process that takes both processes' batches and averages their gradients."""
    cpu = torch.device("cpu")
    run, both = trainer(directory, World(cpu)), trainer(directory, World(cpu, 0, 2))
    plan = both.plan
    for step in range(STEPS):
        for rank, indices in enumerate(plan[step]):
            (run.loss(indices, both.dropped_layout(step, rank))[0] / 2).backward()
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(step, len(plan), CONFIG)
        torch.nn.utils.clip_grad_norm_(run.draft.parameters(), CONFIG.grad_clip)
        run.optimizer.step()
        run.optimizer.zero_grad()
    return run.draft.state_dict()


def test_two_processes_train_what_one_would_on_both_batches_and_resume(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(
        train_together, args=(2, port, str(tmp_path / "two")), nprocs=2, start_method="spawn"
    )
    state = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    expected = averaged(tmp_path / "one")
    assert state["run"]["batch"] == STEPS
    for name, tensor in expected.items():
        torch.testing.assert_close(state["weights"][f"draft.{name}"], tensor, rtol=1e-4, atol=1e-6)
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == STEPS + 1  # one of them validated


def test_asking_for_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        join("cuda")
    assert join() == World(torch.device("cpu"))
