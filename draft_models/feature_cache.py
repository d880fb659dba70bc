# ruff: noqa: N806  shape suffixes
"""Features of training rows on disk, a file a row: 4.6 KB a token for SmolLM2-135M.

A file is named by the row's tokens, in a directory named by target and taps. So runs share what they have in common,
data that has grown costs only its new rows, and several processes may fill one cache. A row's bits depend on the batch
it was first computed in (bf16 kernels differ by shape): a resumed run repeats the uninterrupted one exactly only while
the cache is kept.

Shapes: B rows, T tokens, D hidden size, F tap features.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from draft_models.checkpoint import write_whole
from draft_models.data import Row, digest
from draft_models.target import Features, Target, padded

NAMES = ("taps_TF", "final_TD", "likeliest_T")


class FeatureCache:
    """Features of these rows, each computed when first asked for."""

    def __init__(self, target: Target, rows: Sequence[Row], directory: Path) -> None:
        identity = json.dumps([target.digest, list(target.taps), str(target.embed_VD.dtype)])
        home = directory / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.target, self.rows = target, rows
        names = [digest([row]) for row in rows]
        self.paths = [home / name[:2] / f"{name}.safetensors" for name in names]

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, Features]:
        """ids_BT, padded with 0, and the features of these rows; what lies beyond a row's end is zero.

        Raises:
            CheckpointError: the disk is full.
        """
        found = {index: tensors for index in indices if (tensors := _read(self.paths[index])) is not None}
        if missing := [index for index in indices if index not in found]:
            found |= self._compute(missing)
        taps_BTF, final_BTD, likeliest_BT = (
            pad_sequence([found[index][name] for index in indices], batch_first=True) for name in NAMES
        )
        ids_BT = padded([self.rows[index].ids for index in indices])
        return ids_BT, Features(taps_BTF, final_BTD, likeliest_BT.long())

    def _compute(self, indices: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        _, features = self.target.features_of([self.rows[index] for index in indices])
        computed = {}
        for row, index in enumerate(indices):
            length = len(self.rows[index])
            parts = (features.taps_BTF, features.final_BTD, features.likeliest_BT.int())
            tensors = {name: part[row, :length].cpu().contiguous() for name, part in zip(NAMES, parts, strict=True)}
            write_whole(self.paths[index], partial(save_file, tensors), durable=False)
            computed[index] = tensors
        return computed


def _read(path: Path) -> dict[str, Tensor] | None:
    """A row's tensors; None if they are not there, or not whole."""
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    return tensors if tensors.keys() == set(NAMES) else None
