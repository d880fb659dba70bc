# ruff: noqa: FBT001  SGLang's signatures
"""The model ops: SGLang's schemas and a PyTorch implementation of each.

The PyTorch bodies say what an op means; csrc/ has the fast versions, and the tests hold both to the same references.
Call sites in SGLang 0.5.23: layers/{layernorm,activation,logits_processor}.py, layers/quantization/unquant.py,
layers/rotary_embedding/base.py, layers/attention/intel_amx_backend.py, mem_cache/memory_pool.py,
distributed/bootstrap.py, kernels/ops/sampling/murmur_hash.py.

Shapes: T tokens, B requests, H query heads, K KV heads, D head size, S cache slots, L longest sequence, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .attention import DECODE_SCHEMA, EXTEND_SCHEMA, decode_attention_cpu, extend_attention_cpu
from .decoder import DECODER_SCHEMA, decoder_layers
from .draw import (
    COPY_SCHEMA,
    DRAW_SCHEMA,
    LIKELIEST_SCHEMA,
    MURMUR_SCHEMA,
    NOISE_SCHEMA,
    PROPOSE_SCHEMA,
    SOFTMAX_SCHEMA,
    draw_noise,
    draw_tokens,
    likeliest_tokens,
    murmur_hash32_cpu,
    propose_tokens,
    softmax,
)
from .kv import copy_slots
from .library import Op
from .unsupported import refusal


def init_cpu_threads_env(cpu_ids: str) -> str:
    """Set the number of OpenMP threads from "0,1" or "0-3". Threads are not bound: the machine may be shared."""
    count = 0
    for part in cpu_ids.split(","):
        low, _, high = part.partition("-")
        count += int(high or low) - int(low) + 1
    torch.set_num_threads(count)
    return f"Aerie CPU ops: {count} threads"


def initialize(size: int, rank: int) -> None:
    """The official op opens shared memory for all-reduce; there is nothing to reduce over here."""
    if size != 1:
        raise refusal("tensor parallelism (tp_size > 1)", f"rank {rank} of {size}")


def convert_weight_packed(weight: Tensor) -> Tensor:
    """A copy, not repacked: the copy is what SGLang may mutate, and the op's existence turns the fast path on."""
    return weight.clone()


def weight_packed_linear(mat1: Tensor, mat2: Tensor, bias: Tensor | None, is_vnni: bool) -> Tensor:
    """[T, in] x [out, in] -> [T, out]; SGLang keeps biases in float32. is_vnni concerns a layout not used here."""
    del is_vnni
    return functional.linear(mat1, mat2, None if bias is None else bias.to(mat1.dtype))


def _normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.float()


def rmsnorm_cpu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension, computed in float32."""
    return _normalise(x.float(), weight, eps).to(x.dtype)


def fused_add_rmsnorm_cpu(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> None:
    """In place: residual += x, then x = rmsnorm of the float32 sum."""
    total = x.float() + residual.float()
    residual.copy_(total)
    x.copy_(_normalise(total, weight, eps))


def silu_and_mul_cpu(x: Tensor) -> Tensor:
    """[..., 2 * width] (gate, up) -> silu(gate) * up."""
    gate, up = x.float().chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(x.dtype)


def rotary_embedding_cpu(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
) -> tuple[Tensor, Tensor]:
    """New tensors shaped like query and key ([T, heads * head_size] or [T, heads, head_size]), rotated.

    cos_sin_cache is [positions, rotary_dim]: cosines, then sines. is_neox rotates halves, otherwise neighbouring pairs.
    """
    cos, sin = cos_sin_cache[positions.flatten()].float().unsqueeze(1).chunk(2, dim=-1)
    rotary_dim = cos_sin_cache.shape[-1]

    def rotate(t: Tensor) -> Tensor:
        heads = t.reshape(t.shape[0], t.shape[1:].numel() // head_size, head_size)
        turned, rest = heads[..., :rotary_dim].float(), heads[..., rotary_dim:]
        first, second = turned.chunk(2, dim=-1) if is_neox else (turned[..., ::2], turned[..., 1::2])
        pair = (first * cos - second * sin, second * cos + first * sin)
        turned = torch.cat(pair, dim=-1) if is_neox else torch.stack(pair, dim=-1).flatten(-2)
        return torch.cat((turned.to(t.dtype), rest), dim=-1).reshape(t.shape)

    return rotate(query), rotate(key)


def store_cache_cpu(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, indices: Tensor, row_dim: int) -> None:
    """Write rows of k and v ([T, K, D] or [T, row_dim], maybe strided) to cache slots `indices`."""
    k_cache.view(-1, row_dim)[indices] = k.reshape(-1, row_dim)
    v_cache.view(-1, row_dim)[indices] = v.reshape(-1, row_dim)


def isa() -> str:
    """What is running: an instruction-set variant of the compiled library, or torch."""
    return "torch"


OPS = [
    Op("sgl_kernel", "init_cpu_threads_env(str cpu_ids) -> str", init_cpu_threads_env),
    Op("sgl_kernel", "initialize(int size, int rank) -> ()", initialize),
    Op("sgl_kernel", "convert_weight_packed(Tensor weight) -> Tensor", convert_weight_packed),
    Op(
        "sgl_kernel",
        "weight_packed_linear(Tensor mat1, Tensor mat2, Tensor? bias, bool is_vnni) -> Tensor",
        weight_packed_linear,
    ),
    Op("sgl_kernel", "rmsnorm_cpu(Tensor input, Tensor weight, float eps) -> Tensor", rmsnorm_cpu),
    Op(
        "sgl_kernel",
        "fused_add_rmsnorm_cpu(Tensor(a!) input, Tensor(b!) residual, Tensor weight, float eps) -> ()",
        fused_add_rmsnorm_cpu,
    ),
    Op("sgl_kernel", "silu_and_mul_cpu(Tensor input) -> Tensor", silu_and_mul_cpu),
    Op(
        "sgl_kernel",
        "rotary_embedding_cpu(Tensor positions, Tensor query, Tensor key, int head_size, Tensor cos_sin_cache, "
        "bool is_neox) -> (Tensor, Tensor)",
        rotary_embedding_cpu,
    ),
    Op(
        "sgl_kernel",
        "store_cache_cpu(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor indices, "
        "int row_dim) -> ()",
        store_cache_cpu,
    ),
    Op("sgl_kernel", DECODE_SCHEMA, decode_attention_cpu),
    Op("sgl_kernel", EXTEND_SCHEMA, extend_attention_cpu),
    Op("sgl_kernel", MURMUR_SCHEMA, murmur_hash32_cpu),
    Op("aerie_cpu", DECODER_SCHEMA, decoder_layers),
    Op("aerie_cpu", DRAW_SCHEMA, draw_tokens),
    Op("aerie_cpu", NOISE_SCHEMA, draw_noise),
    Op("aerie_cpu", SOFTMAX_SCHEMA, softmax),
    Op("aerie_cpu", PROPOSE_SCHEMA, propose_tokens),
    Op("aerie_cpu", LIKELIEST_SCHEMA, likeliest_tokens),
    Op("aerie_cpu", COPY_SCHEMA, copy_slots),
    Op("aerie_cpu", "isa() -> str", isa),
]
