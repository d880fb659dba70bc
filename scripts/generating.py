"""Hugging Face `generate` behind a load test's client, so that it is asked in turns with servers (peers_cpu.py).

Owns batching, which `generate` leaves to its caller, and when each token came. Shapes: B batch, T tokens.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from draft_models.template import prompt_ids
from loadtest.client import Client, Sampling
from loadtest.record import Answer, Arrival, Request


class Clock(StoppingCriteria):
    """Never stops; notes when so many tokens were there."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self.arrivals: list[Arrival] = []

    def __call__(self, ids_BT: Tensor, scores: Any, **_: Any) -> Any:  # noqa: ANN401, ARG002, N803
        """[B] of False: transformers asks after every step."""
        self.arrivals.append(Arrival(time.perf_counter(), ids_BT.shape[1] - self._prompt_tokens))
        return torch.zeros(len(ids_BT), dtype=torch.bool)


class Generating(Client):
    """Hugging Face `generate` behind a client's words: requests that come together are a batch."""

    def __init__(self, folder: str, options: Mapping[str, int]) -> None:
        super().__init__("http://generate")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self._model.generation_config.eos_token_id = None
        self._options = options
        self._asked: list[list[int]] = []
        self._batch: asyncio.Task[tuple[Arrival, ...]] | None = None

    async def flush_cache(self) -> bool:
        """There is none."""
        return True

    async def chat(self, messages: Sequence[Mapping[str, str]], sampling: Sampling, **_: Any) -> Request:  # noqa: ANN401
        """In one batch with all that ask before the event loop comes round."""
        sent_s, ids = time.perf_counter(), prompt_ids(self._tokenizer, [dict(message) for message in messages])
        if self._batch is None:
            self._batch = asyncio.create_task(self._generated(sampling.max_tokens))
        self._asked.append(ids)
        arrivals = await self._batch
        return Request(sent_s, arrivals[-1].at_s, Answer(arrivals, len(ids), int(arrivals[-1].tokens)))

    async def _generated(self, max_tokens: int) -> tuple[Arrival, ...]:
        """The same of every answer of a batch."""
        batch = self._tokenizer.pad({"input_ids": self._asked}, return_tensors="pt")
        self._asked, self._batch = [], None
        clock = Clock(batch["input_ids"].shape[1])
        told = StoppingCriteriaList([clock])
        self._model.generate(
            **batch, max_new_tokens=max_tokens, do_sample=False, stopping_criteria=told, **self._options
        )
        return tuple(clock.arrivals)
