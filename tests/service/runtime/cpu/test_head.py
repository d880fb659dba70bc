"""The packed copy of a tied head: same logits, made once, made again for new weights; other heads are let through."""

import torch

from service.runtime.cpu.head import forget_packed_head, use_packed_head


def head_used(lm_head):
    (processor, hidden, used, *rest), options = use_packed_head("processor", "hidden", lm_head, "bias", out=None)
    assert (processor, hidden, rest, options) == ("processor", "hidden", ["bias"], {"out": None})
    return used


def test_an_embedding_in_bfloat16_is_multiplied_with_through_a_packed_copy():
    embedding = torch.nn.Embedding(48, 32, dtype=torch.bfloat16)
    hidden = torch.randn(3, 32, dtype=torch.bfloat16)
    used = head_used(embedding)
    assert used.use_intel_amx_backend
    torch.testing.assert_close(
        torch.ops.sgl_kernel.weight_packed_linear(hidden, used.weight, None, True),
        hidden @ embedding.weight.T, atol=0.05, rtol=0.02,
    )  # fmt: skip
    assert torch.equal(embedding(torch.tensor([7]))[0], embedding.weight[7])


def test_it_is_made_once_for_each_load_of_weights():
    embedding = torch.nn.Embedding(16, 32, dtype=torch.bfloat16)
    first = head_used(embedding)
    assert head_used(embedding) is first
    embedding.weight.data.zero_()
    forget_packed_head(None, "method", embedding)
    assert not head_used(embedding).weight.any()


def test_heads_in_float32_and_heads_sglang_packed_are_used_as_they_are():
    plain, packed = torch.nn.Embedding(16, 32), torch.nn.Linear(32, 16, dtype=torch.bfloat16)
    packed.use_intel_amx_backend = True
    assert head_used(plain) is plain
    assert head_used(packed) is packed
    assert head_used("no weights") == "no weights"
