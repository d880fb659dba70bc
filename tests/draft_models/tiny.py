"""Tiny random models: a Llama of four layers, hidden size 32, in float32, and a draft for it."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from draft_models import vocab
from draft_models.config import DraftConfig
from draft_models.data import Row
from draft_models.model import DraftModel
from draft_models.target import Target

VOCAB, DRAFT_VOCAB, TAPS = 61, 40, (1, 2, 3)


def target(seed: int = 0, spread: float = 0.3) -> Target:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
        tie_word_embeddings=False,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Target(LlamaForCausalLM(config), TAPS, "tiny")


def t2d() -> torch.Tensor:
    known = torch.zeros(VOCAB, dtype=torch.bool)
    known[torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))[:DRAFT_VOCAB]] = True
    return known


def draft(of: Target, seed: int = 0) -> DraftModel:
    torch.manual_seed(seed)
    known = t2d()
    return DraftModel(DraftConfig.from_target(of.config, DRAFT_VOCAB, TAPS), vocab.offsets(known), known)


def rows(count: int, seed: int = 0, vocab_size: int = VOCAB) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    made = []
    for index in range(count):
        length = number(12, 30)
        ids = torch.randint(2, vocab_size, (length,), generator=generator).tolist()
        made.append(Row(tuple(ids), number(2, length - 4), 0.0, f"row-{index}"))
    return made
