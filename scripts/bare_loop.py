"""A decoding loop without a server, as a mark for the CPU runtime: PyTorch, with weights that oneDNN packed.

Owns the least that a Llama-type model needs for one token: no batching, no scheduling, no sampling but argmax.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Layer:
    """Norms, and linear layers as oneDNN packed them; q, k and v are one, gate and up are one."""

    input_norm: Tensor
    qkv: Tensor
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


def packed(*weights: Tensor) -> Tensor:
    """One linear layer of several, one below the other, packed for one row."""
    together: Tensor = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights).contiguous(), 1)
    return together


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """[1, in] -> [1, out]."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


class BareLoop:
    """A model in bfloat16 and the KV cache of one request, which is noise until it is written."""

    def __init__(self, folder: Path, positions: int) -> None:
        config = json.loads((folder / "config.json").read_text())
        weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
        self.embedding = weights["model.embed_tokens.weight"]
        self.norm, self.eps = weights["model.norm.weight"], config["rms_norm_eps"]
        self.head = packed(weights.get("lm_head.weight", self.embedding))
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_size = config.get("head_dim") or config["hidden_size"] // self.heads
        self.layers = [_layer(weights, f"model.layers.{i}") for i in range(config["num_hidden_layers"])]
        self.cache = torch.randn(2, len(self.layers), self.kv_heads, positions, self.head_size).bfloat16()
        theta = config["rope_parameters"]["rope_theta"]
        frequencies = theta ** (-torch.arange(0, self.head_size, 2) / self.head_size)
        angles = torch.outer(torch.arange(positions), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    @torch.inference_mode()
    def token(self, token: int, position: int) -> int:
        """The next token, greedily; the cache is read up to `position` and written there."""
        x = self.embedding[token : token + 1]
        size = x.shape[-1]
        for i, layer in enumerate(self.layers):
            qkv = linear(functional.rms_norm(x, (size,), layer.input_norm, self.eps), layer.qkv)
            q, k, v = qkv.view(-1, self.head_size).split([self.heads, self.kv_heads, self.kv_heads])
            keys, values = self.cache[0, i, :, : position + 1], self.cache[1, i, :, : position + 1]
            keys[:, position], values[:, position] = self._rotated(k, position), v
            group = self._rotated(q, position).view(self.kv_heads, -1, self.head_size)
            mixed = functional.scaled_dot_product_attention(group[None], keys[None], values[None])
            x = x + linear(mixed.reshape(1, -1), layer.out)
            gate, up = linear(functional.rms_norm(x, (size,), layer.post_norm, self.eps), layer.gate_up).chunk(2, -1)
            x = x + linear(functional.silu(gate) * up, layer.down)
        return int(linear(functional.rms_norm(x, (size,), self.norm, self.eps), self.head).argmax())

    def _rotated(self, x: Tensor, position: int) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos[position] + torch.cat((-second, first), -1) * self.sin[position]

    def step_s(self, first: int, steps: int) -> float:
        """Mean seconds a token, from position `first` on."""
        token, started = 1, time.perf_counter()
        for position in range(first, first + steps):
            token = self.token(token, position)
        return (time.perf_counter() - started) / steps


def _layer(weights: dict[str, Tensor], name: str) -> Layer:
    def of(*parts: str) -> list[Tensor]:
        return [weights[f"{name}.{part}.weight"] for part in parts]

    attention = of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return Layer(
        *of("input_layernorm"),
        packed(*attention),
        packed(*of("self_attn.o_proj")),
        *of("post_attention_layernorm"),
        packed(*of("mlp.gate_proj", "mlp.up_proj")),
        packed(*of("mlp.down_proj")),
    )
