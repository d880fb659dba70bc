"""Each model op against a reference written out here in float64."""

import math

import pytest
import torch

from .conftest import COMPILED

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
compiled_only = pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")


def close(actual, expected):
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=tolerance)


def norm_reference(x, weight, eps):
    rows = x.double().reshape(-1, x.shape[-1])
    out = [row / math.sqrt(sum(v * v for v in row.tolist()) / len(row) + eps) * weight.double() for row in rows]
    return torch.stack(out).view(x.shape) if out else x.double()


@dtypes
@pytest.mark.parametrize("shape", [(1, 576), (5, 33), (2, 3, 64), (0, 16)])
def test_rmsnorm_divides_by_the_root_mean_square(ops, dtype, shape):
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)
    close(ops.rmsnorm_cpu(x, weight, 1e-5), norm_reference(x, weight, 1e-5))


@dtypes
def test_fused_add_rmsnorm_updates_the_residual_and_normalises_the_sum(ops, dtype):
    x, residual, weight = torch.randn(7, 80).to(dtype), torch.randn(7, 80).to(dtype), torch.rand(80).to(dtype)
    total = x.double() + residual.double()
    ops.fused_add_rmsnorm_cpu(x, residual, weight, 1e-6)
    close(residual, total)
    close(x, norm_reference(total, weight, 1e-6))


@dtypes
@pytest.mark.parametrize("shape", [(1, 3072), (7, 10), (0, 8), (2, 3, 66)])
def test_silu_and_mul_gates_the_second_half(ops, dtype, shape):
    x = (4 * torch.randn(shape)).to(dtype)
    gate, up = x.double().chunk(2, dim=-1)
    close(ops.silu_and_mul_cpu(x), gate / (1 + (-gate).exp()) * up)


def test_silu_survives_extreme_gates(ops):
    x = torch.tensor([[-200.0, 200.0, -88.5, 0.0, 1.0, 1.0, 1.0, 1.0]])
    assert ops.silu_and_mul_cpu(x).tolist()[0] == pytest.approx([0.0, 200.0, 0.0, 0.0], abs=1e-30)


def test_nan_is_never_hidden(ops):
    x = torch.full((1, 32), float("nan"))
    assert ops.silu_and_mul_cpu(x).isnan().all()
    assert ops.rmsnorm_cpu(x, torch.ones(32), 1e-5).isnan().all()


def rotary_reference(t, positions, cache, head_size, neox):
    out, half = t.double().reshape(len(positions), -1, head_size).clone(), cache.shape[1] // 2
    source = out.clone()
    for row, position in enumerate(positions.tolist()):
        for i in range(half):
            cos, sin = cache[position, i].double(), cache[position, half + i].double()
            a, b = (i, i + half) if neox else (2 * i, 2 * i + 1)
            out[row, :, a] = source[row, :, a] * cos - source[row, :, b] * sin
            out[row, :, b] = source[row, :, b] * cos + source[row, :, a] * sin
    return out.view(t.shape)


@dtypes
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize(("head_size", "rotary_dim"), [(64, 64), (80, 32), (128, 128)])
def test_rotary_embedding_turns_each_pair_by_its_position(ops, dtype, neox, head_size, rotary_dim):
    qkv = torch.randn(4, (6 + 2 + 2) * head_size).to(dtype)
    query, key, _ = qkv.split([6 * head_size, 2 * head_size, 2 * head_size], dim=-1)  # strided views
    cache, positions = torch.rand(50, rotary_dim).to(dtype), torch.tensor([0, 7, 7, 49])
    for turned, source in zip(
        ops.rotary_embedding_cpu(positions, query, key, head_size, cache, neox), (query, key), strict=True
    ):
        close(turned, rotary_reference(source, positions, cache, head_size, neox))
        assert turned.shape == source.shape


def test_rotary_embedding_of_nothing_is_nothing(ops):
    empty = torch.empty(0, 128)
    query, key = ops.rotary_embedding_cpu(torch.empty(0, dtype=torch.int64), empty, empty, 64, torch.rand(8, 64), True)
    assert query.shape == key.shape == (0, 128)


@dtypes
def test_store_cache_writes_exactly_the_given_slots(ops, dtype):
    k, v = torch.randn(3, 5 * 64).to(dtype)[:, : 2 * 64], torch.randn(3, 2, 64).to(dtype)
    k_cache, v_cache = torch.zeros(10, 2, 64, dtype=dtype), torch.zeros(10, 2, 64, dtype=dtype)
    ops.store_cache_cpu(k, v, k_cache, v_cache, torch.tensor([7, 0, 4]), 128)
    for cache, rows in ((k_cache, k), (v_cache, v)):
        expected = torch.zeros(10, 128, dtype=dtype)
        for slot, row in zip((7, 0, 4), rows.reshape(3, 128), strict=True):
            expected[slot] = row
        assert torch.equal(cache.view(10, 128), expected)


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 9, 21])
@pytest.mark.parametrize(("width_out", "width_in"), [(16, 32), (48, 34), (112, 576), (15, 32), (16, 33)])
def test_packed_linear_is_a_linear_layer_whose_bias_is_float32(ops, dtype, bias, rows, width_out, width_in):
    x = torch.randn(rows, 3 * width_in).to(dtype)[:, :width_in]  # strided, as a part of a fused projection is
    weight, b = torch.randn(width_out, width_in).to(dtype), torch.randn(width_out)
    packed = ops.convert_weight_packed(weight)
    assert packed.shape == weight.shape
    expected = x.double() @ weight.double().T + (b.double() if bias else 0)
    actual = ops.weight_packed_linear(x, packed, b if bias else None, True)
    tolerance = 6e-2 * (width_in / 32) ** 0.5 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=2e-2)


@compiled_only
def test_a_row_of_a_compiled_linear_depends_neither_on_the_other_rows_nor_on_the_threads():
    """Verifying a tree gives a token the very logits that plain decoding gives it, as far as linear layers go."""
    linear, packed = torch.ops.sgl_kernel.weight_packed_linear, torch.ops.sgl_kernel.convert_weight_packed
    x, weight = torch.randn(33, 576).bfloat16(), packed(torch.randn(3072, 576).bfloat16())
    together = linear(x, weight, None, True)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert all(
                torch.equal(linear(row.unsqueeze(0), weight, None, True)[0], out)
                for row, out in zip(x, together, strict=True)
            )
    finally:
        torch.set_num_threads(threads)


@compiled_only
def test_a_compiled_linear_refuses_what_does_not_fit():
    weight = torch.ops.sgl_kernel.convert_weight_packed(torch.randn(32, 64).bfloat16())
    for x, bias in (
        (torch.randn(2, 62).bfloat16(), None),
        (torch.randn(2, 64), None),
        (torch.randn(2, 2, 64).bfloat16(), None),
        (torch.randn(2, 64).bfloat16(), torch.randn(31)),
    ):
        with pytest.raises(RuntimeError, match="weight_packed_linear"):
            torch.ops.sgl_kernel.weight_packed_linear(x, weight, bias, True)


def test_copy_slots_reads_all_sources_before_it_writes(ops):
    buffers = [torch.arange(40).view(10, 4).clone(), torch.arange(40, 60).view(10, 2).clone()]
    expected = [b.clone() for b in buffers]
    targets, sources = torch.tensor([3, 4, 5]), torch.tensor([4, 5, 9])
    for b in expected:
        b[targets] = b[sources].clone()
    addresses = torch.tensor([b.data_ptr() for b in buffers], dtype=torch.uint64)
    ops.copy_slots(addresses, torch.tensor([b[0].nbytes for b in buffers]), targets, sources)
    assert all(torch.equal(a, b) for a, b in zip(buffers, expected, strict=True))
