"""Cache-slot and token bookkeeping against what the docstrings say, spelled out with lists."""

import sgl_kernel
import torch

TABLE = torch.arange(100, 160, dtype=torch.int32).view(3, 20)
REQUESTS, STARTS, ENDS = torch.tensor([2, 0]), torch.tensor([3, 5]), torch.tensor([6, 5 + 2])


def test_assigned_slots_are_read_back_in_the_same_order():
    table, slots = TABLE.clone(), torch.tensor([7, 8, 9, 10, 11])
    sgl_kernel.assign_req_to_token_pool_cpu(REQUESTS, table, STARTS, ENDS, slots, 20)
    assert table[2, 3:6].tolist() == [7, 8, 9]
    assert table[0, 5:7].tolist() == [10, 11]
    assert (table != TABLE).sum() == 5
    read = torch.empty(5, dtype=torch.int64)
    sgl_kernel.assign_extend_cache_locs_cpu(REQUESTS, table, STARTS, ENDS, read, 20)
    assert torch.equal(read, slots)


def test_draft_slots_follow_the_committed_ones():
    out = torch.empty(2 * 6, dtype=torch.int64)
    sgl_kernel.assign_draft_cache_locs_contiguous_cpu(REQUESTS, TABLE, STARTS, out, 20, 2, 3)
    assert out.tolist() == [*range(143, 149), *range(105, 111)]


def test_each_branch_sees_the_prefix_and_its_own_draft_slots():
    tables = sgl_kernel.build_draft_decode_metadata_cpu(TABLE, REQUESTS, STARTS, 2, 3, 20)
    assert tables.shape == (4, 20)
    assert tables[0, :6].tolist() == [140, 141, 142, 143, 144, 145]
    assert tables[1, :6].tolist() == [140, 141, 142, 146, 147, 148]
    assert tables[3, :8].tolist() == [*range(100, 105), 108, 109, 110]


def test_accepted_slots_are_compacted():
    accepted, out = torch.tensor([[0, 2, -1], [3, -1, -1]], dtype=torch.int32), torch.zeros(6, dtype=torch.int64)
    sgl_kernel.fill_accept_out_cache_loc_cpu(accepted, torch.tensor([10, 11, 12, 13, 14, 15]), out)
    assert out.tolist() == [10, 12, 13, 0, 0, 0]


def test_the_bonus_token_is_the_last_accepted_one():
    bonus = torch.zeros(2, dtype=torch.int32)
    sgl_kernel.fill_bonus_tokens_cpu(
        torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.int32), torch.tensor([3, 1]), bonus, 3
    )
    assert bonus.tolist() == [3, 4]


def test_rotating_shifts_each_request_and_appends_its_token():
    ids = torch.tensor([1, 2, 3, 9, 5, 6])
    sgl_kernel.rotate_input_ids_cpu(
        ids, torch.tensor([0, 3, 4]), torch.tensor([3, 1, 2]), torch.tensor([[70], [80], [90]])
    )
    assert ids.tolist() == [2, 3, 70, 80, 6, 90]
    ids = torch.tensor([1, 2, 3, 4])
    sgl_kernel.rotate_input_ids_cpu(ids, torch.tensor([0]), torch.tensor([4]), torch.tensor([70]), torch.tensor([1]))
    assert ids.tolist() == [2, 70, 4, 4]


def test_moving_kv_rows_touches_only_the_targets():
    cache = torch.arange(12.0).view(6, 2)
    addresses, strides = torch.tensor([cache.data_ptr()], dtype=torch.uint64), torch.tensor([8])
    same = torch.tensor([1, 2])
    sgl_kernel.copy_all_layer_kv_cache_cpu(addresses, strides, same, same)
    assert torch.equal(cache, torch.arange(12.0).view(6, 2))
    sgl_kernel.copy_all_layer_kv_cache_cpu(addresses, strides, same, torch.tensor([2, 5]))
    assert cache.tolist() == [[0, 1], [4, 5], [10, 11], [6, 7], [8, 9], [10, 11]]
