"""All layers as one op: to the bit what the ops give one after the other, in both implementations."""

from types import SimpleNamespace

import pytest
import torch

from service.runtime.cpu import decoder

from .conftest import COMPILED, implementation

BF16, SLOTS, EPS = torch.bfloat16, 96, 1e-5
REFERENCE = implementation("pytorch").decoder_layers


def weight(out, width):
    return torch.ops.sgl_kernel.convert_weight_packed(torch.randn(out, width).mul_(width**-0.5).to(BF16))


def norm(width):
    return (1 + 0.1 * torch.randn(width)).to(BF16)


class Case:
    """A small decoder, and requests in a shuffled cache: the last new[b] of lengths[b] tokens are new."""

    def __init__(
        self, lengths, new, *, layers=3, hidden=64, head_size=16, heads=6, kv_heads=2, intermediate=96, draft=False
    ):
        first = 2 * hidden if draft else hidden
        width = (heads + 2 * kv_heads) * head_size
        self.weights = [
            tensor
            for layer in range(layers)
            for tensor in (
                norm(hidden), weight(width, hidden if layer else first), weight(hidden, heads * head_size),
                norm(hidden), weight(2 * intermediate, hidden), weight(hidden, intermediate),
            )
        ]  # fmt: skip
        self.caches = [torch.randn(SLOTS, kv_heads, head_size).to(BF16) for _ in range(2 * layers)]
        self.table = torch.randperm(SLOTS, dtype=torch.int32).view(4, 24).contiguous()
        self.requests = torch.tensor([2, 0, 3, 1])[: len(lengths)]
        self.lengths, self.new = torch.tensor(lengths), torch.tensor(new, dtype=torch.int32)
        spans = list(zip(self.requests.tolist(), lengths, new, strict=True))
        self.positions = torch.cat([torch.arange(length - n, length) for _, length, n in spans])
        self.slots = torch.cat([self.table[r, length - n : length] for r, length, n in spans]).long()
        self.hidden = torch.randn(sum(new), hidden).to(BF16)
        self.embeds = torch.randn(sum(new), hidden).to(BF16) if draft else None
        self.hidden_norm = norm(hidden) if draft else None
        self.final_norm, self.rotary = norm(hidden), torch.rand(40, head_size).to(BF16)
        self.scale = head_size**-0.5

    def run(self, op, tree_mask=None, captured=()):
        """(normed, captured, the caches afterwards)."""
        caches = [cache.clone() for cache in self.caches]
        normed, kept = op(
            self.hidden, self.embeds, self.hidden_norm, self.weights, self.final_norm, EPS, self.positions, self.rotary,
            True, caches, self.slots, self.table, self.requests, self.lengths, self.new, tree_mask, self.scale,
            list(captured),
        )  # fmt: skip
        return normed, kept, torch.stack(caches)


def compiled(*arguments):
    return torch.ops.aerie_cpu.decoder_layers(*arguments)


BATCHES = {
    "one token": ([9], [1]),
    "a batch": ([9, 24, 1, 17], [1, 1, 1, 1]),
    "a chain": ([20, 7], [4, 4]),
    "prompts": ([22, 3, 11], [22, 3, 8]),
}


@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("draft", [False, True], ids=["target", "draft"])
@pytest.mark.parametrize("batch", list(BATCHES))
def test_the_compiled_op_has_the_bits_of_the_ops_it_stands_for(batch, draft, threads):
    case = Case(*BATCHES[batch], draft=draft, layers=1 if draft else 3)
    before, captured = torch.get_num_threads(), [1] if draft else [0, 2, 3]
    torch.set_num_threads(threads)
    try:
        results = case.run(compiled, captured=captured)
    finally:
        torch.set_num_threads(before)
    for ours, expected in zip(results, case.run(REFERENCE, captured=captured), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (8, 1)], ids=["gqa", "mha", "mqa"])
def test_in_the_compiled_op_a_tree_sees_its_ancestors_only(heads):
    case = Case([14, 9], [5, 5], heads=heads[0], kv_heads=heads[1], hidden=48, intermediate=80)
    mask = (torch.rand(2, 5, 5) < 0.4) | torch.eye(5, dtype=torch.bool)
    for ours, expected in zip(case.run(compiled, mask.flatten()), case.run(REFERENCE, mask.flatten()), strict=True):
        assert torch.equal(ours, expected)
    causal = case.run(compiled)
    assert not torch.equal(causal[0], case.run(compiled, mask.flatten())[0])


def test_the_captured_streams_are_those_before_the_layers_that_were_named(ops):
    case = Case([6, 9], [2, 1])
    _, kept, _ = case.run(ops.decoder_layers, captured=[0, 2])
    assert torch.equal(kept[:, :64], case.hidden)
    shallow = Case([6, 9], [2, 1])
    shallow.__dict__ |= case.__dict__ | {"weights": case.weights[:12], "caches": case.caches[:4]}
    assert torch.equal(kept[:, 64:], shallow.run(ops.decoder_layers, captured=[2])[1])


def test_nothing_to_do_is_done(ops):
    case = Case([5], [0])
    normed, kept, caches = case.run(ops.decoder_layers, captured=[1])
    assert normed.shape == (0, 64)
    assert kept.shape == (0, 64)
    assert torch.equal(caches, torch.stack(case.caches))


BROKEN = {
    "slot 96 is outside": {"slots": torch.tensor([96])},
    "position 40 is outside": {"positions": torch.tensor([40])},
    "0 new tokens in the sequences": {"new": torch.tensor([0], dtype=torch.int32)},
    "an index tensor has shape": {"slots": torch.tensor([1, 2])},
    "embeds without hidden_norm": {"embeds": torch.zeros(1, 64, dtype=BF16)},
    "hidden states must be a bfloat16 matrix": {"hidden": torch.zeros(1, 64)},
    "its heads side by side": {"caches": [torch.zeros(2, SLOTS, 16, dtype=BF16).transpose(0, 1) for _ in range(6)]},
    "is not like the first": {"caches": [torch.zeros(SLOTS - i, 2, 16, dtype=BF16) for i in (0, 0, 1, 1, 0, 0)]},
}


@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
@pytest.mark.parametrize("message", list(BROKEN))
def test_the_compiled_op_refuses_bad_input(message):
    case = Case([9], [1])
    case.__dict__ |= BROKEN[message]
    with pytest.raises(RuntimeError, match=message):
        case.run(compiled)


@pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
@pytest.mark.parametrize(("place", "message"), [(0, "a norm is"), (1, "a weight is"), (5, "a weight is")])
def test_the_compiled_op_refuses_a_weight_that_does_not_fit(place, message):
    case = Case([9], [1])
    case.weights[6 + place] = torch.zeros(3, 64, dtype=BF16)
    with pytest.raises(RuntimeError, match=message):
        case.run(compiled)


def test_layers_are_looked_for_again_after_weights_were_packed(monkeypatch):
    model, found = SimpleNamespace(), iter(["first", "second"])
    monkeypatch.setattr(decoder, "_find_layers", lambda _: next(found))
    assert [decoder.layers_of(model), decoder.layers_of(model)] == ["first", "first"]
    decoder.count_packing()
    assert decoder.layers_of(model) == "second"
