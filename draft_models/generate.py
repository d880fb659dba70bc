# ruff: noqa: N803, N806, N812, N815  shape suffixes
"""Continuous batching of the target: many answers at once, those that are finished make room for the next.

A row of the batch has a slot of the cache and fills it from its beginning; a query sees its own slot as far as that is
filled. A finished row's slot stays empty until an eighth of the batch is free: then the rows that go on are moved
together, and the prompts that come in are read at once, padded on the right, where nothing looks. `Batcher.run` reads
as admit, step, retire. `generate` of Transformers waits for the longest answer of a batch, and took 2.3 times as long
on a CPU; its `generate_batch` 5 times.

A choice depends on the request and its own tokens only: greedy, or drawn from the top of softmax(logits / temperature)
with random numbers that are a function of the request's seed. Batches only change the rounding of the logits.

Owns the batch and its cache. Refuses to own prompts, templates and files.

Shapes: B rows of the batch, H heads, G key-value heads, C columns of a slot, T tokens of a prompt, d head size,
D hidden size, V vocabulary, K the likeliest tokens.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from draft_models.errors import ConfigError
from draft_models.target import Target, padded

ATTENTION = "aerie_batch"
TOP_P, TOP_K = 0.95, 100
COLUMNS = 128
"""The cache's columns are a multiple of it."""
READ_TOGETHER = 2**16
"""Tokens of the prompts that are read at once, with padding."""
FREE_SHARE = 8
"""One part in so many of the batch is free before its place is given away."""


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
    done: bool = False

    @property
    def cached(self) -> int:
        return len(self.request.ids) + len(self.ids) - 1


class Batcher:
    """Up to `batch_size` answers at a time; it takes the target's attention over, so the target is its own."""

    def __init__(self, target: Target, batch_size: int) -> None:
        self.target, self.batch_size, self.device = target, batch_size, target.embed_VD.device
        self.slots = _Slots(target, batch_size)
        self.rows: list[_Answer] = []
        self._replayed: _Replayed | None = None
        target.model.set_attn_implementation(ATTENTION)

    @torch.inference_mode()
    def run(self, requests: deque[Request]) -> Iterator[Generated]:
        """Answers as they are finished; requests that are appended meanwhile are answered too.

        Raises:
            ConfigError: out of memory.
        """
        while self.rows or requests:
            with _in_memory(self.batch_size):
                if requests and self.batch_size - len(self.rows) >= max(1, self.batch_size // FREE_SHARE):
                    self._admit(requests)
                else:
                    self._step()
            yield from self._retire()

    def _admit(self, requests: deque[Request]) -> None:
        """Read the first prompts, as many as there is room for, and choose their first tokens."""
        rows = [_Answer(request, random.Random(request.seed)) for request in self._next(requests)]  # noqa: S311
        prompts, first = [row.request.ids for row in rows], len(self.rows)
        self.rows += rows
        if self.slots.grow(max(len(row.request.ids) + row.request.max_tokens for row in rows)):
            self._replayed = None
        ids_BT = padded(prompts).to(self.device)
        position_BT = torch.arange(ids_BT.shape[1], device=self.device).expand_as(ids_BT)
        slot_B = torch.arange(first, len(self.rows), device=self.device)
        hidden_BTD = self._forward(ids_BT, slot_B, position_BT, None)
        last_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        self._choose(self.target.logits(hidden_BTD[torch.arange(len(rows), device=self.device), last_B]), rows)

    def _next(self, requests: deque[Request]) -> list[Request]:
        found = [requests.popleft()]
        longest = len(found[0].ids)
        while requests and len(self.rows) + len(found) < self.batch_size:
            longest = max(longest, len(requests[0].ids))
            if longest * (len(found) + 1) > READ_TOGETHER:
                break
            found.append(requests.popleft())
        return found

    def _step(self) -> None:
        """One token more for every row; those that are done stay as they are."""
        # a graph is of one shape: what stands in slots without a row does not matter
        empty = self.batch_size - len(self.rows) if self.device.type == "cuda" else 0
        last_B1 = torch.tensor([[row.ids[-1]] for row in self.rows] + [[0]] * empty)
        cached_B1 = torch.tensor([[row.cached] for row in self.rows] + [[0]] * empty)
        if self.device.type == "cuda":
            self._replayed = self._replayed or _Replayed(self._decode, last_B1.cuda(), cached_B1.cuda())
            logits_BV = self._replayed(last_B1, cached_B1)[: len(self.rows)]
        else:
            logits_BV = self._decode(last_B1, cached_B1)
        self._choose(logits_BV, self.rows)

    def _decode(self, last_B1: Tensor, cached_B1: Tensor) -> Tensor:
        """Logits of what follows each row's last token, [B, V]."""
        longest = self.slots.columns if last_B1.is_cuda else int(cached_B1.max()) + 1
        slot_B = torch.arange(len(last_B1), device=self.device)
        hidden_B1D = self._forward(last_B1, slot_B, cached_B1, _Reach.of(cached_B1[:, 0] + 1, longest))
        return self.target.logits(hidden_B1D[:, 0])

    def _forward(self, ids_BT: Tensor, slot_B: Tensor, position_BT: Tensor, reach: "_Reach | None") -> Tensor:
        """Hidden states [B, T, D]; a prompt's own tokens are all it sees, later tokens `reach` into their slots."""
        self.slots.written, self.slots.reading = (slot_B[:, None], position_BT), reach is None
        output = self.target.model.model(
            input_ids=ids_BT, position_ids=position_BT, past_key_values=self.slots, use_cache=True, reach=reach
        )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    def _choose(self, logits_BV: Tensor, rows: list[_Answer]) -> None:
        chosen = logits_BV.max(-1).indices.tolist()
        sampled = [index for index, row in enumerate(rows) if row.request.temperature > 0 and not row.done]
        if sampled:
            temperature_B = torch.tensor([rows[index].request.temperature for index in sampled], device=self.device)
            draws = draw(logits_BV[sampled].float() / temperature_B[:, None], [rows[i].chance for i in sampled])
            for index, token in zip(sampled, draws, strict=True):
                chosen[index] = token
        for row, token in zip(rows, chosen, strict=True):
            if not row.done:
                row.ids.append(token)

    def _retire(self) -> Iterator[Generated]:
        """Rows that are finished now; once there are enough of them their slots are freed."""
        for row in self.rows:
            ended = row.ids[-1] in row.request.stop
            if not row.done and (ended or len(row.ids) >= row.request.max_tokens):
                row.done = True
                yield Generated(row.request, tuple(row.ids), ended)
        live = [index for index, row in enumerate(self.rows) if not row.done]
        if len(self.rows) - len(live) >= max(1, len(self.rows) // FREE_SHARE):
            holes = [index for index in range(len(live)) if self.rows[index].done]
            moved = live[len(live) - len(holes) :]
            self.slots.copy(moved, holes)
            for index, hole in zip(moved, holes, strict=True):
                self.rows[hole] = self.rows[index]
            del self.rows[len(live) :]


class _Replayed:
    """A decoding step as a CUDA graph: to launch its kernels one by one takes three times as long as they take."""

    def __init__(self, decode: Callable[[Tensor, Tensor], Tensor], last_B1: Tensor, cached_B1: Tensor) -> None:
        """Captured with a step that is yet to be done: what it writes to the cache is right."""
        self.last_B1, self.cached_B1, self.graph = last_B1, cached_B1, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up outside the graph
            decode(last_B1, cached_B1)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            self.logits_BV = decode(last_B1, cached_B1)

    def __call__(self, last_B1: Tensor, cached_B1: Tensor) -> Tensor:
        """Logits, until the next call."""
        self.last_B1.copy_(last_B1)
        self.cached_B1.copy_(cached_B1)
        self.graph.replay()
        return self.logits_BV


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


@dataclass(frozen=True)
class _Reach:
    """How far the one query of each row sees into its slot."""

    length_B: Tensor
    longest: int
    mask_B11C: Tensor
    """Of the `longest` columns."""

    @classmethod
    def of(cls, length_B: Tensor, longest: int) -> "_Reach":
        mask_BC = torch.arange(longest, device=length_B.device) < length_B[:, None]
        return cls(length_B.int(), longest, mask_BC[:, None, None])


class _Slots(Cache):
    """Keys and values of all rows; a layer writes where `written` points, and prompts are `reading` but themselves."""

    def __init__(self, target: Target, batch_size: int) -> None:
        config = target.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.written, self.reading = (torch.empty(0), torch.empty(0)), True
        self.columns = 0
        empty_BCGd = target.embed_VD.new_empty(batch_size, 0, heads, head_dim)
        self.stored = [_Layer(self, empty_BCGd) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self.stored))

    def grow(self, columns: int) -> bool:
        """Make room for so many tokens in every slot; whether there was not enough."""
        if columns <= self.columns:
            return False
        self.columns = -(-columns // COLUMNS) * COLUMNS
        for layer in self.stored:
            layer.key_BCGd = _grown(layer.key_BCGd, self.columns)
            layer.value_BCGd = _grown(layer.value_BCGd, self.columns)
        return True

    def copy(self, source: list[int], to: list[int]) -> None:
        """Some slots over others."""
        for layer in self.stored:
            layer.key_BCGd[to] = layer.key_BCGd[source]
            layer.value_BCGd[to] = layer.value_BCGd[source]


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values."""

    def __init__(self, slots: _Slots, empty_BCGd: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots, self.is_initialized = slots, True
        self.key_BCGd, self.value_BCGd = empty_BCGd, empty_BCGd

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write what is new; what the attention is to read: a prompt's own, or the slots [B, C, G, d]."""
        self.key_BCGd[self.slots.written] = key_states.transpose(1, 2)
        self.value_BCGd[self.slots.written] = value_states.transpose(1, 2)
        if self.slots.reading:
            return key_states, value_states
        rows = len(key_states)
        return self.key_BCGd[:rows], self.value_BCGd[:rows]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """It is initialised."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Unused: every query knows its reach."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Unused: `Batcher` brings positions."""
        return 0

    def get_max_length(self) -> int:
        """It has none."""
        return -1


def _grown(cached_BCGd: Tensor, columns: int) -> Tensor:
    rows, before, heads, head_dim = cached_BCGd.shape
    grown_BCGd = cached_BCGd.new_zeros(rows, columns, heads, head_dim)
    grown_BCGd[:, :before] = cached_BCGd
    return grown_BCGd


def _attention(
    _module: torch.nn.Module,
    query_BHTd: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    scaling: float | None = None,
    reach: _Reach | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Of prompts, causal, on keys [B, G, T, d]; or of one query a row on the slots [B, C, G, d], up to its reach."""
    if reach is None:
        out_BHTd = F.scaled_dot_product_attention(
            query_BHTd, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out_BHTd.transpose(1, 2).contiguous(), None
    if query_BHTd.is_cuda and query_BHTd.dtype != torch.float32:
        return _flash(query_BHTd, key, value, scaling, reach), None
    # a slot's queries of one key-value head are attended to together, so that keys are not repeated per head
    key_BGCd, value_BGCd = (x[:, : reach.longest].transpose(1, 2) for x in (key, value))
    grouped = query_BHTd.reshape(len(key), key_BGCd.shape[1], -1, query_BHTd.shape[-1])
    out = F.scaled_dot_product_attention(grouped, key_BGCd, value_BGCd, attn_mask=reach.mask_B11C, scale=scaling)
    return out.reshape(query_BHTd.shape).transpose(1, 2).contiguous(), None


def _flash(query_BH1d: Tensor, key_BCGd: Tensor, value_BCGd: Tensor, scaling: float | None, reach: _Reach) -> Tensor:
    """CUDA's kernel reads no further than each slot is filled: [B, 1, H, d]."""
    rows, columns = key_BCGd.shape[:2]
    count_B = torch.arange(rows + 1, device=key_BCGd.device, dtype=torch.int32)
    out_BHd: Tensor = torch.ops.aten._flash_attention_forward(
        query_BH1d[:, :, 0],
        key_BCGd.flatten(0, 1),
        value_BCGd.flatten(0, 1),
        count_B,
        count_B * columns,
        1,
        reach.longest,
        0.0,
        is_causal=False,
        return_debug_mask=False,
        scale=scaling,
        seqused_k=reach.length_B,
    )[0]
    return out_BHd[:, None]


AttentionInterface.register(ATTENTION, _attention)
