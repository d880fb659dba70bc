"""The training-time test's attention: Figure 6's matrices, and the same numbers as a dense mask gives."""

import pytest
import torch

from draft_models.attention import CausalThenDiagonal, causal_block, causal_block_backward, merged_attention


def mask(tokens: int, step: int) -> torch.Tensor:
    """Figure 6: [T, T * (step + 1)], causal over the data, then one diagonal per simulated step."""
    return torch.cat([torch.ones(tokens, tokens).tril(), *[torch.eye(tokens)] * step], dim=1).bool()


def dense(query, keys, values, allowed):
    """[T, H, d] from keys and values [step + 1][T, G, d]: the naive reference, one row of tokens."""
    shared = query.shape[1] // keys[0].shape[1]
    key, value = (torch.cat(parts).repeat_interleave(shared, 1) for parts in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)


def test_figure_6_draws_these_matrices():
    drawn = ["".join("x" if seen else "." for seen in row) for row in mask(4, 2).tolist()]
    assert drawn == [
        "x...x...x...",
        "xx...x...x..",
        "xxx...x...x.",
        "xxxx...x...x",
    ]


def merged(query, keys, values):
    """One row, every position simulated: the first keys and values are the data, the others the steps."""
    return merged_attention(
        query,
        keys[0].transpose(0, 1)[None],
        values[0].transpose(0, 1)[None],
        list(zip(keys[1:], values[1:], strict=True)),
        torch.zeros(len(query), dtype=torch.long),
        torch.arange(len(query)),
    )


@pytest.mark.parametrize("step", [0, 1, 2, 4])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_every_step_attends_as_its_matrix_says(step, heads, groups):
    torch.manual_seed(step)
    tokens, size = 7, 8
    query = torch.randn(tokens, heads, size)
    keys, values = ([torch.randn(tokens, groups, size) for _ in range(step + 1)] for _ in range(2))
    found = merged(query, keys, values)
    torch.testing.assert_close(found, dense(query, keys, values, mask(tokens, step)))


def test_gradients_are_those_of_the_dense_mask():
    torch.manual_seed(0)
    tokens, steps = 6, 3
    make = lambda: [torch.randn(tokens, 2, 4, requires_grad=True) for _ in range(steps + 1)]  # noqa: E731
    query, keys, values = torch.randn(tokens, 4, 4, requires_grad=True), make(), make()
    weight = torch.randn(tokens, 4, 4)
    leaves = [query, *keys, *values]
    found = merged(query, keys, values)
    expected = dense(query, keys, values, mask(tokens, steps))
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_only_simulated_positions_are_computed_and_rows_do_not_see_each_other():
    torch.manual_seed(0)
    rows, tokens, heads, size = 3, 5, 2, 4
    row, column = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 4])
    query, key, value = torch.randn(3, rows, tokens, heads, size).unbind()
    attend = CausalThenDiagonal(rows, row, column)
    first = attend(*(x.flatten(0, 1) for x in (query, key, value)))
    later = [torch.randn(3, heads, size) for _ in range(3)]
    second = attend(*later)
    assert first.shape == second.shape == (3, heads, size)
    for place, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        seen = [key[r, : c + 1]], [value[r, : c + 1]]
        every = torch.ones(1, c + 1, dtype=torch.bool)
        torch.testing.assert_close(first[place], dense(query[r, c][None], *seen, every)[0])
        seen = [key[r, : c + 1], later[1][place][None]], [value[r, : c + 1], later[2][place][None]]
        every = torch.ones(1, c + 2, dtype=torch.bool)
        torch.testing.assert_close(second[place], dense(later[0][place][None], *seen, every)[0])


def test_the_cuda_kernel_takes_these_shapes():
    """On the meta device: its signature, not its numbers, which need a GPU (docs/results.md)."""
    query = torch.empty(2, 4, 40, 64, device="meta")
    out, lse = causal_block(query, query, query)
    assert (out.shape, lse.shape) == (query.shape, query.shape[:3])
    assert {x.shape for x in causal_block_backward(query, query, query, query, out, lse)} == {query.shape}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_cuda_kernel_is_the_cpu_kernel_up_to_rounding():
    torch.manual_seed(0)
    query, key, value, grad = (torch.randn(2, 4, 40, 64) for _ in range(4))
    expected = causal_block(query, key, value)
    found = causal_block(query.cuda(), key.cuda(), value.cuda())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-2, atol=2e-2)
    expected = causal_block_backward(grad, query, key, value, *expected)
    found = causal_block_backward(grad.cuda(), query.cuda(), key.cuda(), value.cuda(), *found)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=5e-2, atol=5e-2)
