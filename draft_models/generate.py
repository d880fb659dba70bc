# ruff: noqa: N803, N806, N812  shape suffixes
"""Continuous batching of the target: many answers at once, a finished one makes room for the next.

All rows end at the same column of the cache, so every step writes one column, and a row that joins is placed with its
last token at that column; what lies before a row's start is masked. `Batcher.run` reads as admit, forward, choose,
retire. `generate` of Transformers waits for the longest answer of a batch, and took 2.3 times as long
on a CPU; its `generate_batch` 5 times.

A choice depends on the request and its own tokens only: greedy, or drawn from the top of softmax(logits / temperature)
with random numbers that are a function of the request's seed. Batches only change the rounding of the logits.

Owns the batch and its cache. Refuses to own prompts, templates and files.

Shapes: B rows of the batch, H heads, G key-value heads, C columns, T tokens of one prompt, d head size, D hidden size,
V vocabulary, K the likeliest tokens.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from draft_models.errors import ConfigError
from draft_models.target import Target

ATTENTION = "aerie_batch"
TOP_P, TOP_K = 0.95, 100
SPARE_COLUMNS = 256
"""The cache's columns are multiples of it: rows are moved back to its beginning once in about so many steps."""


@dataclass(frozen=True)
class Request:
    """A prompt to go on from, and how."""

    key: str
    ids: tuple[int, ...]
    max_tokens: int
    stop: frozenset[int] = frozenset()
    """Tokens that end it."""
    temperature: float = 0.0
    seed: str = ""
    kind: str = "prompt"
    """For the caller."""


@dataclass(frozen=True)
class Generated:
    """What followed, its end-of-sequence token included; `ended` is False where `max_tokens` cut it."""

    request: Request
    ids: tuple[int, ...]
    ended: bool


@dataclass
class _Answer:
    """A row of the batch; its last token is not in the cache yet."""

    request: Request
    chance: random.Random
    ids: list[int] = field(default_factory=list)

    @property
    def cached(self) -> int:
        return len(self.request.ids) + len(self.ids) - 1


class Batcher:
    """Up to `batch_size` answers at a time; it takes the target's attention over, so the target is its own."""

    def __init__(self, target: Target, batch_size: int) -> None:
        self.target, self.batch_size, self.device = target, batch_size, target.embed_VD.device
        self.columns = _Columns(target, batch_size)
        self.rows: list[_Answer] = []
        target.model.set_attn_implementation(ATTENTION)

    @torch.inference_mode()
    def run(self, requests: deque[Request]) -> Iterator[Generated]:
        """Answers as they are finished; requests that are appended meanwhile are answered too.

        Raises:
            ConfigError: out of memory.
        """
        while self.rows or requests:
            while requests and len(self.rows) < self.batch_size:
                with _in_memory(self.batch_size):
                    self._admit(requests.popleft())
                yield from self._retire()
            if self.rows:
                with _in_memory(self.batch_size):
                    self._step()
                yield from self._retire()

    def _admit(self, request: Request) -> None:
        """Read the prompt, alone, and choose the first token."""
        length = len(request.ids)
        self.columns.place(row=len(self.rows), length=length)
        ids_1T = torch.tensor([request.ids], device=self.device)
        hidden_TD = self._forward(ids_1T, torch.arange(length, device=self.device)[None], None)[0]
        row = _Answer(request, random.Random(request.seed))  # noqa: S311  not cryptography
        self.rows.append(row)
        self._choose(hidden_TD[-1:], [row])

    def _step(self) -> None:
        """One token more for every row."""
        width = self.columns.extend(len(self.rows), max(row.cached for row in self.rows))
        cached_B = torch.tensor([row.cached for row in self.rows], device=self.device)
        last_B = torch.tensor([row.ids[-1] for row in self.rows], device=self.device)
        mask_BC = torch.arange(width, device=self.device) >= width - 1 - cached_B[:, None]
        hidden_BD = self._forward(last_B[:, None], cached_B[:, None], mask_BC[:, None, None])[:, -1]
        self._choose(hidden_BD, self.rows)

    def _forward(self, ids_BT: Tensor, position_BT: Tensor, mask: Tensor | None) -> Tensor:
        output = self.target.model.model(
            input_ids=ids_BT,
            position_ids=position_BT,
            attention_mask=mask,
            past_key_values=self.columns,
            use_cache=True,
        )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    def _choose(self, hidden_BD: Tensor, rows: list[_Answer]) -> None:
        logits_BV = self.target.logits(hidden_BD)
        chosen = logits_BV.max(-1).indices.tolist()
        sampled = [index for index, row in enumerate(rows) if row.request.temperature > 0]
        if sampled:
            temperature_B = torch.tensor([rows[index].request.temperature for index in sampled], device=self.device)
            draws = draw(logits_BV[sampled].float() / temperature_B[:, None], [rows[i].chance for i in sampled])
            for index, token in zip(sampled, draws, strict=True):
                chosen[index] = token
        for row, token in zip(rows, chosen, strict=True):
            row.ids.append(token)

    def _retire(self) -> Iterator[Generated]:
        """Finished rows leave; the last row takes the place of each."""
        for index in reversed(range(len(self.rows))):
            row = self.rows[index]
            ended = row.ids[-1] in row.request.stop
            if ended or len(row.ids) >= row.request.max_tokens:
                last = self.rows.pop()
                if last is not row:
                    self.columns.copy(len(self.rows), index)
                    self.rows[index] = last
                yield Generated(row.request, tuple(row.ids), ended)


@contextmanager
def _in_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # the CPU's allocator has no exception of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ConfigError(
            f"out of memory with {batch_size} answers at a time: a smaller --batch-size or --max-length"
        ) from error


def draw(logits_BV: Tensor, chances: list[random.Random]) -> list[int]:
    """One token a row, from the TOP_K likeliest as far as they make up TOP_P; one random number a row."""
    top_BK = logits_BV.topk(min(TOP_K, logits_BV.shape[-1]))
    prob_BK = top_BK.values.softmax(-1)
    before_BK = prob_BK.cumsum(-1) - prob_BK
    reach_BK = (prob_BK * (before_BK < TOP_P)).cumsum(-1)
    chance_B1 = torch.tensor([chance.random() for chance in chances], device=logits_BV.device)[:, None]
    place_B1 = torch.searchsorted(reach_BK, chance_B1 * reach_BK[:, -1:], right=True)
    # rounding may reach past the last token that is allowed
    place_B1 = place_B1.minimum((before_BK < TOP_P).sum(-1, keepdim=True) - 1)
    tokens: list[int] = top_BK.indices.gather(1, place_B1)[:, 0].tolist()
    return tokens


class _Columns(Cache):
    """Keys and values of all rows, ending at column `end`; a layer writes where `rows` and `end` point."""

    def __init__(self, target: Target, batch_size: int) -> None:
        config = target.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.capacity, self.end, self.longest = 0, 0, 0
        self.rows, self.written = slice(0), slice(0)
        self.read: slice | None = None
        empty_BGCd = target.embed_VD.new_empty(batch_size, heads, 0, head_dim)
        self.stored = [_Layer(self, empty_BGCd) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self.stored))

    def place(self, row: int, length: int) -> None:
        """A prompt of `length` is about to be written to a new row."""
        if row == 0:
            self.end, self.longest = 0, 0
        if length > self.end:
            self._move(_rounded(length))  # somewhat longer prompts will fit too
        self.longest = max(self.longest, length)
        self.rows, self.written, self.read = slice(row, row + 1), slice(self.end - length, self.end), None

    def extend(self, rows: int, longest: int) -> int:
        """One column more for so many rows, the longest of which has `longest` already; how many columns are read."""
        self.longest = longest
        if self.end == self.capacity:
            self._move(longest)
        self.end, self.longest = self.end + 1, longest + 1
        self.rows, self.written = slice(rows), slice(self.end - 1, self.end)
        self.read = slice(self.end - self.longest, self.end)
        return self.longest

    def copy(self, source: int, to: int) -> None:
        """One row over another."""
        for layer in self.stored:
            layer.copy(source, to)

    def _move(self, end: int) -> None:
        """Shift all rows so that they end at `end`, with room to grow; columns far beyond that are freed."""
        needed = _rounded(end + SPARE_COLUMNS // 2)
        if not needed <= self.capacity <= 2 * needed:
            self.capacity = needed
        width = min(self.end, self.longest)
        for layer in self.stored:
            layer.move(slice(self.end - width, self.end), slice(end - width, end), self.capacity)
        self.end = end


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values."""

    def __init__(self, columns: _Columns, empty_BGCd: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns, self.is_initialized = columns, True
        self.key_BGCd, self.value_BGCd = empty_BGCd, empty_BGCd

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write what is new; what the attention is to read: the new row alone, or all rows."""
        at = self.columns
        self.key_BGCd[at.rows, :, at.written] = key_states
        self.value_BGCd[at.rows, :, at.written] = value_states
        if at.read is None:
            return key_states, value_states
        return self.key_BGCd[at.rows, :, at.read], self.value_BGCd[at.rows, :, at.read]

    def copy(self, source: int, to: int) -> None:
        """One row over another."""
        self.key_BGCd[to] = self.key_BGCd[source]
        self.value_BGCd[to] = self.value_BGCd[source]

    def move(self, old: slice, new: slice, capacity: int) -> None:
        """All rows from some columns to others."""
        self.key_BGCd = _moved(self.key_BGCd, old, new, capacity)
        self.value_BGCd = _moved(self.value_BGCd, old, new, capacity)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """It is initialised."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: `Batcher` brings its mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Unused: `Batcher` brings positions."""
        return 0

    def get_max_length(self) -> int:
        """It has none."""
        return -1


def _rounded(columns: int) -> int:
    return -(-columns // SPARE_COLUMNS) * SPARE_COLUMNS


def _moved(cached_BGCd: Tensor, old: slice, new: slice, capacity: int) -> Tensor:
    live_BGCd = cached_BGCd[:, :, old].clone()
    batch_size, heads, columns, head_dim = cached_BGCd.shape
    if capacity != columns:
        cached_BGCd = cached_BGCd.new_zeros(batch_size, heads, capacity, head_dim)
    cached_BGCd[:, :, new] = live_BGCd
    return cached_BGCd


def _attention(
    _module: torch.nn.Module,
    query_BHTd: Tensor,
    key_BGCd: Tensor,
    value_BGCd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """A step's queries of one key-value head are attended to together, so that keys are not repeated per head."""
    batch, heads, tokens, size = query_BHTd.shape
    if attention_mask is None:
        out = F.scaled_dot_product_attention(
            query_BHTd, key_BGCd, value_BGCd, is_causal=True, scale=scaling, enable_gqa=True
        )
    else:
        grouped = query_BHTd.reshape(batch, key_BGCd.shape[1], -1, size)
        out = F.scaled_dot_product_attention(grouped, key_BGCd, value_BGCd, attn_mask=attention_mask, scale=scaling)
        out = out.reshape(batch, heads, tokens, size)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)
