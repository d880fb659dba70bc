"""Tiny random models: a Llama of four layers, hidden size 32, in float32, or another kind of target; and its draft."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from draft_models import vocab
from draft_models.config import DraftConfig
from draft_models.data import Row
from draft_models.model import DraftModel
from draft_models.target import Target

VOCAB, DRAFT_VOCAB, TAPS, CONTEXT = 61, 40, (1, 2, 3), 256

KINDS = {
    "llama": (LlamaConfig, {}),
    "llama-multi-head": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama-tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "llama-biased": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2Config, {}),
    "qwen2-tied": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 12}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral-window": (MistralConfig, {"sliding_window": CONTEXT}),
}
"""Supported kinds of target, by configuration class and what differs from the tiny Llama.

qwen2 has biases in its attention; qwen3 norms of queries and keys, and heads that are not hidden size / heads wide.
"""

ROPES = {
    "default": {},
    "linear": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
}


def config(kind: str = "llama", rope: str = "default", **changes) -> PretrainedConfig:
    made, different = KINDS[kind]
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": rope, **ROPES.get(rope, {})},
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if made is Qwen2Config:
        del sizes["head_dim"]  # it has none
    return made(**sizes | different | changes)


def target(seed: int = 0, spread: float = 0.3, kind: str = "llama", rope: str = "default", **changes) -> Target:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(kind, rope, initializer_range=spread, **changes))
    _scramble_biases(model)
    return Target(model.float(), TAPS, "tiny")


def t2d(vocab_size: int = VOCAB, draft_vocab_size: int = DRAFT_VOCAB) -> torch.Tensor:
    known = torch.zeros(vocab_size, dtype=torch.bool)
    known[torch.randperm(vocab_size, generator=torch.Generator().manual_seed(1))[:draft_vocab_size]] = True
    return known


def draft(of: Target, seed: int = 0, draft_vocab_size: int = DRAFT_VOCAB) -> DraftModel:
    torch.manual_seed(seed)
    known = t2d(of.config.vocab_size, draft_vocab_size)
    return DraftModel(DraftConfig.from_target(of.config, draft_vocab_size, TAPS), vocab.offsets(known), known)


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


def _scramble_biases(model: torch.nn.Module) -> None:
    """Biases and norms start at 0 and 1, where they would prove nothing."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "q_norm.weight", "k_norm.weight")):
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) / 2)
