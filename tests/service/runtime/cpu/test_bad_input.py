"""The compiled ops answer bad input with an error that names the op, never with a crash."""

import pytest
import torch

from .conftest import COMPILED, implementation
from .test_attention import SLOTS, Case

pytestmark = pytest.mark.skipif(not COMPILED, reason="AERIE_CPU_OPS=torch")
KERNELS = implementation("compiled")


def refused(match, error=RuntimeError):
    return pytest.raises(error, match=match)


def case():
    return Case(torch.float32, 64, 4, 2, [20], [1])


@pytest.mark.parametrize("slot", [-1, SLOTS, 2**30])
def test_a_slot_outside_the_cache_is_refused(slot):
    broken = case()
    broken.table[2, 3] = slot
    with refused("decode_attention_cpu.*slot"):
        broken.decode(KERNELS)


def test_a_sequence_longer_than_its_table_is_refused():
    broken = case()
    broken.lengths = [41]
    with refused("sequence length 41"):
        broken.decode(KERNELS)


def test_a_request_outside_the_table_is_refused():
    broken = case()
    broken.requests = torch.tensor([4])
    with refused("request 4"):
        broken.decode(KERNELS)


def test_more_tokens_than_queries_are_refused():
    broken = case()
    broken.q, broken.out = broken.q[:0], broken.out[:0]
    with refused("token 0 of 0"):
        broken.decode(KERNELS)


def test_a_short_tree_mask_is_refused():
    broken = Case(torch.float32, 64, 4, 2, [20], [4])
    with refused("tree_mask is too short"):
        broken.extend(KERNELS, tree_mask=torch.ones(15, dtype=torch.bool))


def test_a_store_outside_the_cache_is_refused():
    rows, cache = torch.zeros(1, 8), torch.zeros(4, 8)
    with refused("slot 4 is outside"):
        KERNELS.store_cache_cpu(rows, rows, cache, cache, torch.tensor([4]), 8)
    with refused("dtypes differ"):
        KERNELS.store_cache_cpu(rows.bfloat16(), rows, cache, cache, torch.tensor([0]), 8)


def test_a_position_past_the_rotary_cache_is_refused():
    with refused("position 8 is outside"):
        KERNELS.rotary_embedding_cpu(
            torch.tensor([8]), torch.zeros(1, 64), torch.zeros(1, 64), 64, torch.rand(8, 64), True
        )


def test_mismatched_norms_are_refused():
    with refused("weight has shape"):
        KERNELS.rmsnorm_cpu(torch.zeros(2, 8), torch.zeros(7), 1e-5)
    with refused("must be contiguous"):
        KERNELS.fused_add_rmsnorm_cpu(torch.zeros(8, 2).T, torch.zeros(2, 8), torch.zeros(8), 1e-5)


def test_other_dtypes_are_refused_with_the_flag_to_set():
    with refused("--dtype bfloat16", NotImplementedError):
        KERNELS.silu_and_mul_cpu(torch.zeros(1, 8, dtype=torch.float16))


def test_draws_need_matching_rows():
    one = torch.ones(1)
    with refused("draw_tokens"):
        KERNELS.draw_tokens(
            torch.rand(2, 9), torch.ones(1, dtype=torch.int32), one, one, torch.ones(1).long(), torch.ones(1).long()
        )


def test_softmax_needs_a_temperature_for_each_row():
    with refused("temperatures for logits"):
        KERNELS.softmax(torch.zeros(2, 9), torch.ones(3))


def test_more_proposals_than_columns_are_refused():
    zeros, one = torch.zeros(1).long(), torch.ones(1)
    with refused("10 tokens of logits"):
        KERNELS.propose_tokens(torch.zeros(1, 9).bfloat16(), 10, one, zeros, one, one, zeros, zeros, torch.arange(9))
    with refused("temperatures must be"):
        KERNELS.propose_tokens(
            torch.zeros(1, 9).bfloat16(), 2, torch.ones(2), zeros, one, one, zeros, zeros, torch.arange(9)
        )
    with refused("top_ps and min_ps must be"):
        KERNELS.propose_tokens(
            torch.zeros(1, 9).bfloat16(), 2, one, zeros, torch.ones(2), one, zeros, zeros, torch.arange(9)
        )
