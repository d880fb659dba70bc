# ruff: noqa: N806  shape suffixes
"""Training with training-time test (section 3.2): a state that resumes exactly, and tau to choose by.

A run is a function of its configuration, its rows, its target and the number of processes: the plan of batches, the
learning rate and the dropped positions depend on how many batches are done and on nothing else. So a run that was
interrupted and resumed ends with the same bits as one that was not (on a CPU, with as many threads; CUDA's attention
adds in no fixed order).

Owns the optimiser and the run's directory: state.pt (to resume), the log, draft/ (the best so far, by measured
tau on held-out rows, in SGLang's format). Refuses to own data formats, the objective and the terminal.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from draft_models.acceptance import Acceptance
from draft_models.checkpoint import save_draft, write_whole
from draft_models.config import TrainConfig
from draft_models.data import Row, batches, digest
from draft_models.errors import CheckpointError, ConfigError
from draft_models.held_out import chain_acceptance
from draft_models.model import DraftModel, initialise
from draft_models.objective import Objective, shares
from draft_models.run_log import Progress, RunLog, Validation
from draft_models.target import Features, Target
from draft_models.unroll import Layout
from draft_models.world import World

FeaturesOf = Callable[[Sequence[int]], tuple[Tensor, Features]]
"""Ids and features of the rows with these indices: a `FeatureCache`, or the target itself."""

STATE, DRAFT = "state.pt", "draft"
HELD_TOGETHER = 8
LENGTHENED = {"patience", "checkpoint_every"}
"""What a resumed run may change."""
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Run:
    """Where a run stands: what a checkpoint holds besides weights and optimiser."""

    batch: int = 0
    tokens: int = 0
    seconds: float = field(default=0.0, compare=False)
    """Spent training, over all resumptions."""
    best_tau: float = 0.0
    worse: int = 0
    """Measurements since the best."""
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What a run learns from: the last `held_out` of the rows are measured on and not trained on."""

    rows: Sequence[Row]
    held_out: int
    features_of: FeaturesOf

    @cached_property
    def digest(self) -> str:
        """Of all rows."""
        return digest(self.rows)

    @property
    def training(self) -> int:
        """Rows to train on: the first ones."""
        return len(self.rows) - self.held_out


class Trainer:
    """Trains one draft against one target.

    In a world of several processes each takes its own batch of every step, and the first writes the files.
    """

    def __init__(
        self,
        draft: DraftModel,
        target: Target,
        config: TrainConfig,
        data: Data,
        directory: Path,
        provenance: dict[str, Any] | None = None,
        world: World = World(torch.device("cpu")),  # noqa: B008  frozen
    ) -> None:
        self.draft, self.target, self.config, self.data, self.world = draft, target, config, data, world
        self.directory, self.log, self.provenance = directory, RunLog(directory), provenance or {}
        if data.held_out < 1:
            raise ConfigError("no greedy answers are held out: acceptance cannot be measured; see --held-out")
        if data.training < 1:
            raise ConfigError(f"{len(data.rows)} rows, {data.held_out} of them held out: nothing is left to train on")
        lengths = [len(row) for row in data.rows[: data.training]]
        every = [
            batch
            for epoch in range(config.epochs)
            for batch in batches(lengths, config.batch_tokens, config.seed, epoch)
        ]
        self.plan = [every[start : start + world.size] for start in range(0, len(every) - world.size + 1, world.size)]
        if not self.plan:
            raise ConfigError(
                f"{len(every)} batches for {world.size} processes: smaller --batch-tokens, or fewer of them"
            )
        self.run_state = Run(identity=self._identity())
        self._ahead = ThreadPoolExecutor(1)
        self._next: Future[Layout] | None = None
        self.objective = Objective(draft.to(world.device), target, config)

    def initialise(self) -> None:
        """Random weights of the right scale: see `model.initialise`. Before the first step or `resume`."""
        indices = self.plan[0][0]
        taps_BTF = self.data.features_of(indices)[1].taps_BTF.float()
        taps_MF = torch.cat([taps_TF[: len(self.data.rows[i])] for taps_TF, i in zip(taps_BTF, indices, strict=True)])
        rms = [tap_MD.pow(2).mean().sqrt().item() for tap_MD in taps_MF.chunk(len(self.draft.config.taps), dim=-1)]
        initialise(self.draft, self.target.head_VD, self.target.norm_D, rms, self.config.seed)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the weights, which are spread over the world from here on."""
        self.world.shard(self.objective)
        config = self.config
        return torch.optim.AdamW(
            self.objective.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def run(self, on_line: Callable[[Progress | Validation], None] = lambda _: None, until: int | None = None) -> None:
        """Train to the end of the plan (or up to batch `until`), logging, validating and saving on the way.

        Raises:
            CheckpointError: the disk is full; the last state and the best draft are still there.
        """
        state, config = self.run_state, self.config
        started, first_batch, first_token, first_second = time.monotonic(), state.batch, state.tokens, state.seconds
        if self.world.first and state.batch == 0:
            self.log.cut(self.run_state.batch)
        end = len(self.plan) if until is None else min(until, len(self.plan))
        while state.batch < end and not self.exhausted:
            loss, alphas = self.step()
            elapsed = time.monotonic() - started
            state.seconds = first_second + elapsed
            remaining = (len(self.plan) - state.batch) / (state.batch - first_batch)
            self._log(
                Progress(
                    batch=state.batch,
                    batches=len(self.plan),
                    tokens=state.tokens,
                    loss=loss,
                    alphas=alphas,
                    learning_rate=learning_rate(state.batch - 1, len(self.plan), config),
                    tokens_per_s=(state.tokens - first_token) / elapsed,
                    eta_s=remaining * elapsed,
                ),
                on_line,
            )
            last = state.batch == len(self.plan)
            if state.batch % config.validate_every == 0 or last:
                self._keep_if_best(on_line)
            if state.batch % config.checkpoint_every == 0 or last or self.exhausted:
                self.save()

    @property
    def exhausted(self) -> bool:
        """Whether tau has not improved for as long as `patience` allows."""
        return 0 < self.config.patience <= self.run_state.worse

    def step(self) -> tuple[float, list[float]]:
        """Train on the next batch: its loss, and per step the share of predictions that hit."""
        state, config = self.run_state, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(state.batch, len(self.plan), config)
        layout = (self._next or self._layout_of(state.batch)).result()
        # a GPU need not wait for the next one
        self._next = self._layout_of(state.batch + 1) if state.batch + 1 < len(self.plan) else None
        loss, alphas = self.loss(self.plan[state.batch][self.world.rank], layout)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), config.grad_clip)
        self.optimizer.step()
        state.tokens += sum(len(self.data.rows[index]) for batch in self.plan[state.batch] for index in batch)
        state.batch += 1
        return loss.item(), alphas

    def loss(self, indices: Sequence[int], layout: Layout) -> tuple[Tensor, list[float]]:
        """The training-time-test loss of these rows, and per step the share of predictions that hit."""
        layout, (ids_BT, features) = layout.to(self.world.device), self._batch(indices)
        judgement = self.objective(ids_BT, features, layout)
        return judgement.loss, shares(judgement.hit_X, layout.step_X, self.config.num_steps)

    def dropped_layout(self, batch: int, rank: int) -> Layout:
        """A training batch's: which positions are dropped is a function of how many batches were before."""
        generator = torch.Generator().manual_seed(_seed(self.config.seed, batch, rank))
        return self._layout(self.plan[batch][rank], self.config.num_steps, self.config.position_survival, generator)

    @property
    def training_tokens(self) -> int:
        """Tokens of the rows trained on."""
        return sum(map(len, self.data.rows[: self.data.training]))

    def measure_held_out(self, num_steps: int) -> tuple[Acceptance, float]:
        """Acceptance on the held-out rows, and their mean loss."""
        held = range(self.data.training, len(self.data.rows))
        starts = range(0, len(held), HELD_TOGETHER)
        parts = [held[start : start + HELD_TOGETHER] for start in starts]
        measured = [self.measure(part, num_steps) for part in parts]
        loss = sum(loss * len(part) for (_, loss), part in zip(measured, parts, strict=True)) / len(held)
        return sum((acceptance for acceptance, _ in measured), Acceptance()), loss

    @torch.no_grad()
    def measure(self, indices: Sequence[int], num_steps: int) -> tuple[Acceptance, float]:
        """Acceptance of a greedy chain along these rows, which the target wrote greedily, and the loss."""
        layout, (ids_BT, features) = self._layout(indices, num_steps).to(self.world.device), self._batch(indices)
        judgement = self.objective(ids_BT, features, layout)
        rows = [self.data.rows[index] for index in indices]
        return chain_acceptance(rows, ids_BT, layout, judgement), judgement.loss.item()

    def save(self) -> None:
        """Everything a resumed run needs, whole or not at all.

        Raises:
            CheckpointError: the disk is full; the last state is still there.
        """
        weights, optimizer = get_state_dict(self.objective, self.optimizer, options=WHOLE)
        state = {"run": vars(self.run_state), "weights": weights, "optimizer": optimizer}
        if self.world.first:
            write_whole(self.directory / STATE, lambda path: torch.save(state, path))
        self.world.wait()

    def resume(self) -> None:
        """Go on from the directory's last state.

        Raises:
            CheckpointError: there is none, or it is broken.
            ConfigError: it belongs to a run with another configuration, target or data.
        """
        path = self.directory / STATE
        try:
            state = torch.load(path, weights_only=True)
            found, wanted = state["run"]["identity"], self.run_state.identity
        except (OSError, RuntimeError, UnpicklingError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: no saved state, or not a whole one; name another --out") from error
        differences = [
            f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        if differences:
            raise ConfigError(f"{path}: another run's state: {'; '.join(differences)}; name another --out")
        self.run_state, self._next = Run(**state["run"]), None
        set_state_dict(
            self.objective,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["optimizer"],
            options=WHOLE,
        )
        if self.world.first:
            self.log.cut(self.run_state.batch)

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for a resumed run to be the same run."""
        return {
            **self.config.model_dump(mode="json", exclude=LENGTHENED),
            **self.draft.config.model_dump(mode="json"),
            "target": self.target.digest,
            "rows": self.data.digest,
            "training": self.data.training,
            "processes": self.world.size,
            "init": self.provenance.get("init", {}).get("weights_sha256"),
        }

    def _batch(self, indices: Sequence[int]) -> tuple[Tensor, Features]:
        ids_BT, features = self.data.features_of(indices)
        device = self.world.device
        return ids_BT.to(device), Features(*(tensor.to(device) for tensor in vars(features).values()))

    def _layout_of(self, batch: int) -> Future[Layout]:
        return self._ahead.submit(self.dropped_layout, batch, self.world.rank)

    def _layout(
        self, indices: Sequence[int], num_steps: int, survival: float = 1.0, generator: torch.Generator | None = None
    ) -> Layout:
        rows = [self.data.rows[index] for index in indices]
        lengths, starts = [len(row) for row in rows], [row.response_start for row in rows]
        return Layout.of(lengths, starts, num_steps, survival, generator)

    def _keep_if_best(self, on_line: Callable[[Progress | Validation], None]) -> None:
        state, steps = self.run_state, self.config.num_steps
        acceptance, loss = self.measure_held_out(steps)
        tau = self.world.of_first(acceptance.tau)
        self._log(Validation(state.batch, state.tokens, loss, tau, acceptance.alphas(steps)), on_line)
        if tau <= state.best_tau:
            state.worse += 1
            return
        state.best_tau, state.worse = tau, 0
        weights = get_model_state_dict(self.objective, options=WHOLE)
        if self.world.first:
            tensors: dict[str, Any] = {name.removeprefix("draft."): tensor for name, tensor in weights.items()}
            whole = DraftModel(self.draft.config, tensors["d2t"], tensors["t2d"])
            whole.load_state_dict(tensors)
            save_draft(whole, self.directory / DRAFT, {**self.provenance, **self._measured()})

    def _measured(self) -> dict[str, Any]:
        state = self.run_state
        hours = round(state.seconds / 3600, 2)
        return {"held_out_tau": state.best_tau, "batch": state.batch, "tokens": state.tokens, "hours": hours}

    def _log(self, line: Progress | Validation, on_line: Callable[[Progress | Validation], None]) -> None:
        if self.world.first:
            self.log.append(line)
            on_line(line)


def learning_rate(batch: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak."""
    warmup = min(1.0, (batch + 1) / (config.warmup_batches + 1))
    cosine = (1 + math.cos(math.pi * batch / max(1, total))) / 2
    floor = config.final_learning_rate
    return config.learning_rate * warmup * (floor + (1 - floor) * cosine)


def _seed(*numbers: int) -> int:
    """One seed from several numbers: no two of them alike."""
    return random.Random("/".join(map(str, numbers))).getrandbits(63)  # noqa: S311  not cryptography
