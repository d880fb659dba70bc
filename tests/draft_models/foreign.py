# ruff: noqa: N803, N806, N812  shape suffixes
"""A tiny draft written as others publish theirs, and their forward pass from the tensors as they name them."""

import json

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from draft_models import vocab
from draft_models.config import DraftConfig
from draft_models.model import DraftModel
from tests.draft_models import tiny

LAYERS = 8
"""Of the target: enough for the default taps, hidden_states[2, 4, 5]."""


def target(**changes):
    return tiny.config(num_hidden_layers=LAYERS, **{"dtype": torch.bfloat16} | changes)


def draft(draft_vocab_size=tiny.DRAFT_VOCAB, taps=None):
    """Weights of few bits, the same in every precision; norms are not one."""
    known = tiny.t2d(draft_vocab_size=draft_vocab_size)
    made = DraftModel(DraftConfig.from_target(target(), draft_vocab_size, taps), vocab.offsets(known), known)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.data = torch.randint(-8, 9, parameter.shape, generator=generator) / 32 + (parameter.dim() == 1)
    return made


def embedding():
    return torch.randint(-8, 9, (tiny.VOCAB, 32), generator=torch.Generator().manual_seed(4)) / 16


def layer_config(of):
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    sizes = {name: getattr(of.config, name) for name in names}
    return {**sizes, "vocab_size": tiny.VOCAB, "hidden_act": "silu", "num_hidden_layers": 1, "model_type": "llama"}


def tensors(of):
    return {name: tensor.clone() for name, tensor in of.state_dict().items()}


def write_eagle(of, directory, config=None, weights=None):
    """As yuhuili/EAGLE3-*: half precision, pickled, no rope, no taps, few positions."""
    found = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "torch_dtype": "float16"}
    found |= {"draft_vocab_size": of.config.draft_vocab_size, "tie_word_embeddings": False, "num_hidden_layers": 40}
    write_config(directory, layer_config(of) | found | (config or {}))
    made = weights or {name: half(tensor) for name, tensor in tensors(of).items()}
    torch.save(made, directory / "pytorch_model.bin")


def write_specforge(of, directory, config=None, weights=None):
    """As lmsys/SGLang-EAGLE3-*, exported with a copy of the embedding."""
    found = {"architectures": ["LlamaForCausalLMEagle3"], "max_position_embeddings": 256, "torch_dtype": "bfloat16"}
    found |= {"draft_vocab_size": of.config.draft_vocab_size, "rope_theta": 10000.0, "rope_scaling": None}
    write_config(
        directory, layer_config(of) | found | {"tie_word_embeddings": False, "bos_token_id": 0} | (config or {})
    )
    made = weights or {**tensors(of), "embed_tokens.weight": embedding()}
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, directory / "model.safetensors")


def write_speculators(of, directory, config=None, weights=None):
    """As RedHatAI/*-speculator.eagle3, of those that SGLang can serve."""
    nested = layer_config(of) | {"max_position_embeddings": 256, "rope_theta": 10000.0, "head_dim": 8}
    found = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "tiny"}},
        "transformer_layer_config": nested,
        "draft_vocab_size": of.config.draft_vocab_size,
        "norm_before_residual": False,
        "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": list(of.config.taps),
    }
    write_config(directory, found | (config or {}))
    own = {name.replace("midlayer.", "layers.0."): tensor for name, tensor in tensors(of).items()}
    copies = {"embed_tokens.weight": embedding(), "verifier_norm.weight": torch.ones(32)}
    made = weights or own | copies
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, directory / "model.safetensors")


WRITERS = {"EAGLE": write_eagle, "SGLang (SpecForge)": write_specforge, "speculators": write_speculators}


def write_config(directory, config):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))


def half(tensor):
    return tensor.half() if tensor.is_floating_point() else tensor


def forward(weights, layer, embed_MD, features_MF):
    """Logits [M, W] of the draft whose tensors these are, by section 3.1 of the paper, rope theta 10000."""
    found = {name.replace("layers.0.", "midlayer."): tensor.float() for name, tensor in weights.items()}
    eps = layer["rms_norm_eps"]

    def norm(x_MD, name):
        return x_MD * (x_MD.square().mean(-1, keepdim=True) + eps).rsqrt() * found[f"{name}.weight"]

    def linear(x_MD, name):
        return x_MD @ found[f"{name}.weight"].T

    hidden_MD = linear(features_MF, "fc")
    x_M2D = torch.cat([norm(embed_MD, "midlayer.input_layernorm"), norm(hidden_MD, "midlayer.hidden_norm")], -1)
    heads, groups = layer["num_attention_heads"], layer["num_key_value_heads"]
    query, key, value = (
        linear(x_M2D, f"midlayer.self_attn.{name}_proj").unflatten(-1, (count, -1)).transpose(0, 1)
        for name, count in (("q", heads), ("k", groups), ("v", groups))
    )
    out_HMd = F.scaled_dot_product_attention(
        _turned(query), _turned(key).repeat_interleave(heads // groups, 0), value.repeat_interleave(heads // groups, 0),
        is_causal=True,
    )  # fmt: skip
    hidden_MD = hidden_MD + linear(out_HMd.transpose(0, 1).flatten(1), "midlayer.self_attn.o_proj")
    x_MD = norm(hidden_MD, "midlayer.post_attention_layernorm")
    gate_MD = F.silu(linear(x_MD, "midlayer.mlp.gate_proj")) * linear(x_MD, "midlayer.mlp.up_proj")
    return linear(norm(hidden_MD + linear(gate_MD, "midlayer.mlp.down_proj"), "norm"), "lm_head")


def _turned(x_HMd):
    half_size = x_HMd.shape[-1] // 2
    angle_Mh = torch.arange(x_HMd.shape[1])[:, None] * 10000.0 ** (-torch.arange(half_size) / half_size)
    low, high = x_HMd[..., :half_size], x_HMd[..., half_size:]
    cos, sin = angle_Mh.cos(), angle_Mh.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
