# ruff: noqa: N806  shape suffixes
"""Training with training-time test (section 3.2): one batch a step, a state that resumes exactly, tau to choose by.

A run is a function of its configuration, its rows and its target: the plan of batches and the learning rate depend on
how many batches are done and on nothing else, and there is no other randomness. So a run that was interrupted and
resumed ends with the same bits as one that was not.

Owns the optimiser and the run's directory: state.pt (to resume), log.jsonl, draft/ (the best so far, by measured tau on
held-out rows, in SGLang's format). Refuses to own data formats and the terminal.

Shapes: B rows, T tokens, N simulated positions, R reference rows, S steps, D hidden size, F tap features.
"""

import json
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from draft_models import vocab
from draft_models.acceptance import Acceptance, walk
from draft_models.checkpoint import save_draft, write_whole
from draft_models.config import TrainConfig
from draft_models.data import Row, batches, digest
from draft_models.errors import CheckpointError, ConfigError
from draft_models.loss import soft_cross_entropy
from draft_models.model import DraftModel, initialise
from draft_models.target import Features, Target
from draft_models.unroll import Layout, unroll

FeaturesOf = Callable[[Sequence[int]], tuple[Tensor, Features]]
"""Ids and features of the rows with these indices: a `FeatureCache`, or the target itself."""

STATE, LOG, DRAFT = "state.pt", "log.jsonl", "draft"


@dataclass(frozen=True)
class Progress:
    """One line of the log."""

    batch: int
    batches: int
    tokens: int
    """Tokens of all batches so far, padding not counted."""
    loss: float
    alphas: list[float]
    """Per step, the share of response tokens that the draft's likeliest token hits, on the batch just trained."""
    learning_rate: float
    tokens_per_s: float
    eta_s: float


@dataclass(frozen=True)
class Validation:
    """Held-out acceptance of a chain of S steps."""

    batch: int
    tau: float
    n_alpha: list[float | None]


@dataclass
class Run:
    """Where a run stands: what a checkpoint holds besides weights and optimiser."""

    batch: int = 0
    tokens: int = 0
    best_tau: float = 0.0
    identity: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Trains one draft against one target. `features_of` knows all `rows`; the last `held_out` are not trained on."""

    def __init__(
        self,
        draft: DraftModel,
        target: Target,
        config: TrainConfig,
        rows: Sequence[Row],
        held_out: int,
        features_of: FeaturesOf,
        directory: Path,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.draft, self.target, self.config, self.rows = draft, target, config, rows
        self.features_of, self.directory, self.provenance = features_of, directory, provenance or {}
        self.training = len(rows) - held_out
        if self.training < 1:
            raise ConfigError(f"{len(rows)} rows, {held_out} of them held out: nothing is left to train on")
        lengths = [len(row) for row in rows[: self.training]]
        self.plan = [
            batch
            for epoch in range(config.epochs)
            for batch in batches(lengths, config.batch_tokens, config.seed, epoch)
        ]
        self.dtype = getattr(torch, config.compute_dtype)
        self.optimizer = torch.optim.AdamW(
            draft.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.reference_head_WD = target.head_VD[draft.t2d].to(self.dtype)
        self.draft_ids_V = vocab.draft_ids(draft.t2d)
        self.run_state = Run(identity=self._identity())

    def initialise(self) -> None:
        """Random weights of the right scale: see `model.initialise`."""
        taps_BTF = self.features_of(self.plan[0])[1].taps_BTF
        taps = taps_BTF.float().view(*taps_BTF.shape[:2], len(self.draft.config.taps), -1)
        present_BT = taps.abs().sum((-1, -2)) > 0
        rms = taps[present_BT].pow(2).mean((0, 2)).sqrt().tolist()
        initialise(self.draft, self.target.head_VD, self.target.norm_D, rms, self.config.seed)

    def run(self, on_line: Callable[[Progress | Validation], None] = lambda _: None, until: int | None = None) -> None:
        """Train to the end of the plan (or up to batch `until`), logging, validating and saving on the way."""
        state, config = self.run_state, self.config
        started, first_batch, first_token = time.monotonic(), state.batch, state.tokens
        while state.batch < min(until or len(self.plan), len(self.plan)):
            loss, alphas = self.step()
            elapsed = time.monotonic() - started
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
            if state.batch % config.validate_every == 0 or state.batch == len(self.plan):
                self._keep_if_best(on_line)
            if state.batch % config.checkpoint_every == 0 or state.batch == len(self.plan):
                self.save()

    def step(self) -> tuple[float, list[float]]:
        """Train on the next batch: its loss, and per step the share of response tokens hit."""
        state, config = self.run_state, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(state.batch, len(self.plan), config)
        indices = self.plan[state.batch]
        loss, alphas = self.loss(indices)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.draft.parameters(), config.grad_clip)
        self.optimizer.step()
        state.batch += 1
        state.tokens += sum(len(self.rows[index]) for index in indices)
        return loss.item(), alphas

    def loss(self, indices: Sequence[int]) -> tuple[Tensor, list[float]]:
        """The training-time-test loss of these rows, and per step the share of response tokens hit."""
        steps, decay = self.config.num_steps, self.config.position_decay
        ids_BT, features = self.features_of(indices)
        layout = self._layout(indices)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            outputs_SND = unroll(
                self.draft, self.target.embed_VD, ids_BT, features.taps_BTF.to(self.dtype), layout, steps
            )
            index_SRD = layout.source_SR.clamp(min=0)[..., None].expand(-1, -1, outputs_SND.shape[-1])
            hidden_SRD = self.draft.norm(outputs_SND.gather(1, index_SRD))
        likeliest_R = features.likeliest_BT[layout.row_R, layout.column_R]
        known_SR = self.draft.t2d[likeliest_R] & (layout.source_SR >= 0)
        decay_S = decay ** torch.arange(steps)
        judged = soft_cross_entropy(
            hidden_SRD,
            self.draft.lm_head.weight,
            features.final_BTD[layout.row_R, layout.column_R],
            self.reference_head_WD,
            known_SR * decay_S[:, None] / max(1, len(likeliest_R)),
        )
        hit_SR = known_SR & (judged.proposal_SR == self.draft_ids_V[likeliest_R])
        return judged.loss, hit_SR.float().mean(1).tolist()

    @torch.no_grad()
    def validate(self) -> Acceptance:
        """Acceptance of a greedy chain of S steps along the held-out rows, which the target wrote greedily.

        While its drafts are right a chain holds the row's own tokens, and at the first wrong one its cycle is over: so
        the unrolled pass on the row's tokens says exactly what decoding would accept.
        """
        total = Acceptance()
        held = range(self.training, len(self.rows))
        for start in range(0, len(held), 8):
            total += self._chain(held[start : start + 8])
        return total

    def save(self) -> None:
        """Everything a resumed run needs, whole or not at all.

        Raises:
            CheckpointError: the disk is full; the last state is still there.
        """
        state = {
            "run": vars(self.run_state),
            "draft": self.draft.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_whole(self.directory / STATE, lambda path: torch.save(state, path))

    def resume(self) -> None:
        """Go on from the directory's last state.

        Raises:
            CheckpointError: there is none, or it is broken.
            ConfigError: it belongs to a run with another configuration, target or data.
        """
        path = self.directory / STATE
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path}: no saved state, or not a whole one")
        state = torch.load(path, weights_only=True)
        found, wanted = state["run"]["identity"], self.run_state.identity
        differences = [
            f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        if differences:
            raise ConfigError(f"{path}: another run's state: {'; '.join(differences)}; name another --out")
        self.run_state = Run(**state["run"])
        self.draft.load_state_dict(state["draft"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._cut_log()

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for a resumed run to be the same run."""
        recipe = {name: list(value) if isinstance(value, tuple) else value for name, value in self.config}
        draft = {name: list(value) if isinstance(value, tuple) else value for name, value in self.draft.config}
        return {**recipe, **draft, "target": self.target.name, "rows": digest(self.rows), "training": self.training}

    def _layout(self, indices: Sequence[int]) -> Layout:
        rows = [self.rows[index] for index in indices]
        return Layout.of([len(row) for row in rows], [row.response_start for row in rows], self.config.num_steps)

    def _chain(self, indices: Sequence[int]) -> Acceptance:
        steps = self.config.num_steps
        ids_BT, features = self.features_of(indices)
        layout = self._layout(indices)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            outputs_SND = unroll(
                self.draft, self.target.embed_VD, ids_BT, features.taps_BTF.to(self.dtype), layout, steps
            )
            proposal_SN = torch.stack([self.draft.logits(outputs_ND).max(-1).indices for outputs_ND in outputs_SND])
        column_SN = layout.column_N + 2 + torch.arange(steps)[:, None]
        within_SN = column_SN < torch.tensor([len(self.rows[index]) for index in indices])[layout.row_N]
        written_SN = ids_BT[layout.row_N, column_SN.clamp(max=ids_BT.shape[1] - 1)]
        right_SN = within_SN & (self.draft.target_ids(proposal_SN) == written_SN)
        leading_BT = torch.zeros_like(ids_BT)
        leading_BT[layout.row_N, layout.column_N] = right_SN.long().cumprod(0).sum(0)
        correct = [
            walk(leading_T, self.rows[index].response_start - 1, len(self.rows[index]) - 2)
            for leading_T, index in zip(leading_BT.tolist(), indices, strict=True)
        ]
        return Acceptance.of([count for counts in correct for count in counts])

    def _keep_if_best(self, on_line: Callable[[Progress | Validation], None]) -> None:
        acceptance, state = self.validate(), self.run_state
        line = Validation(state.batch, acceptance.tau, acceptance.alphas(self.config.num_steps))
        self._log(line, on_line)
        if acceptance.tau <= state.best_tau:
            return
        state.best_tau = acceptance.tau
        measured = {"held_out_tau": acceptance.tau, "tokens": state.tokens, "batch": state.batch}
        save_draft(self.draft, self.directory / DRAFT, {**self.provenance, **measured})

    def _log(self, line: Progress | Validation, on_line: Callable[[Progress | Validation], None]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / LOG).open("a") as file:
            file.write(json.dumps({"event": type(line).__name__.lower(), **vars(line)}) + "\n")
        on_line(line)

    def _cut_log(self) -> None:
        """Drop the lines of batches that the state does not have: they will be trained, and logged, again."""
        path = self.directory / LOG
        if not path.exists():
            return
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["batch"] <= self.run_state.batch]
        write_whole(path, lambda temporary: _write(temporary, "".join(kept)))


def learning_rate(batch: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak."""
    warmup = min(1.0, (batch + 1) / (config.warmup_batches + 1))
    cosine = (1 + math.cos(math.pi * batch / max(1, total))) / 2
    floor = config.final_learning_rate
    return config.learning_rate * warmup * (floor + (1 - floor) * cosine)


def count_tokens(rows: Sequence[Row], vocab_size: int) -> Tensor:
    """How often the target wrote each token, [V]."""
    written = torch.tensor([token for row in rows for token in row.ids[row.response_start :]], dtype=torch.long)
    return torch.bincount(written, minlength=vocab_size)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
