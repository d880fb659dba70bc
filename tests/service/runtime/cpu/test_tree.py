"""Token trees: laws, and brute-force references over random trees."""

import pytest
import sgl_kernel
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sgl_kernel import tree

TOPK, STEPS, NODES = 3, 3, 8


@st.composite
def trees(draw, max_nodes=9):
    """Parents of a random tree in which every parent comes before its children."""
    count = draw(st.integers(1, max_nodes))
    return [tree.NO_NODE] + [draw(st.integers(0, i - 1)) for i in range(1, count)]


def ancestors(parents, node):
    return set() if parents[node] == tree.NO_NODE else {parents[node]} | ancestors(parents, parents[node])


def candidates_of(parents, topk):
    """The draft's description of a tree: (selected_index, parent_list), every node's children in its own group."""
    groups = {0: 0}
    place, taken, parent_list = {}, {}, [-1]
    for node in range(1, len(parents)):
        parent = parents[node]
        if parent not in groups:
            groups[parent] = len(parent_list)
            parent_list.append(place[parent])
        place[node] = groups[parent] * topk + taken.get(parent, 0)
        taken[parent] = taken.get(parent, 0) + 1
    return [place[node] for node in range(1, len(parents))], parent_list


def build(batch, seq_lens, mode):
    nodes, topk = len(batch[0]), len(batch[0])
    described = [candidates_of(parents, topk) for parents in batch]
    width = max(len(parent_list) for _, parent_list in described)
    parent_list = torch.tensor([p + [0] * (width - len(p)) for _, p in described])
    selected = torch.tensor([s for s, _ in described], dtype=torch.int64).view(len(batch), nodes - 1)
    size = nodes * nodes * len(batch) + (sum(seq_lens) * nodes if mode == tree.FULL_MASK else 0)
    mask = torch.ones(size, dtype=torch.bool)
    positions = torch.empty(len(batch) * nodes, dtype=torch.int64)
    links = torch.full((3, len(batch), nodes), -1)
    sgl_kernel.build_tree_kernel_efficient_cpu(
        parent_list, selected, torch.tensor(seq_lens), mask, positions, *links, topk, nodes, nodes, mode
    )
    return mask, positions.view(len(batch), nodes), links


@given(trees())
@settings(max_examples=60, deadline=None)
def test_the_mask_is_the_ancestor_relation_and_positions_count_depth(parents):
    n, seq_lens = len(parents), [5, 9]
    mask, positions, links = build([parents, parents], seq_lens, tree.QLEN_ONLY)
    for b, seq_len in enumerate(seq_lens):
        for i in range(n):
            visible = {j for j in range(n) if mask.view(2, n, n)[b, i, j]}
            assert visible == ancestors(parents, i) | {i}
            assert positions[b, i] == seq_len + len(ancestors(parents, i))
    assert links[0].flatten().tolist() == list(range(2 * n))


@given(trees())
@settings(max_examples=60, deadline=None)
def test_links_enumerate_every_nodes_children_in_order(parents):
    first, sibling = tree.child_links(parents)
    for node in range(len(parents)):
        children, child = [], first[node]
        while child != tree.NO_NODE:
            children.append(child)
            child = sibling[child]
        assert children == [i for i, parent in enumerate(parents) if parent == node]


@given(trees())
@settings(max_examples=60, deadline=None)
def test_a_full_mask_is_the_tree_behind_an_untouched_prefix(parents):
    n, seq_lens = len(parents), [3, 0, 4]
    small, _, _ = build([parents] * 3, seq_lens, tree.QLEN_ONLY)
    full, _, _ = build([parents] * 3, seq_lens, tree.FULL_MASK)
    for b, block in enumerate(full.split([n * (length + n) for length in seq_lens])):
        rows = block.view(n, seq_lens[b] + n)
        assert rows[:, : seq_lens[b]].all()
        assert torch.equal(rows[:, seq_lens[b] :], small.view(3, n, n)[b])


@given(trees())
@settings(max_examples=60, deadline=None)
def test_reconstructing_a_tree_from_its_mask_gives_the_tree_back(parents):
    n = len(parents)
    mask, positions, links = build([parents], [7], tree.QLEN_ONLY)
    again, links_again = torch.empty(n, dtype=torch.int64), torch.full((3, 1, n), -1)
    sgl_kernel.reconstruct_indices_from_tree_mask_cpu(mask, torch.tensor([7]), again, *links_again, 1, n)
    assert torch.equal(again, positions.flatten())
    assert torch.equal(links_again, links)


def longest_match(parents, tokens, wanted):
    """Brute force: the deepest node all of whose path equals what the target wanted at each parent."""
    paths = [sorted(ancestors(parents, node) | {node}) for node in range(len(parents))]
    good = [p for p in paths if all(tokens[node] == wanted[parents[node]] for node in p[1:])]
    return max(good, key=len)


@given(trees(), st.data())
@settings(max_examples=120, deadline=None)
def test_greedy_verify_accepts_exactly_the_longest_matching_path(parents, data):
    n = len(parents)
    wanted = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    tokens = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    seen = set()
    for i in range(1, n):  # siblings are distinct candidates
        while (parents[i], tokens[i]) in seen:
            tokens[i] += 4
        seen.add((parents[i], tokens[i]))
    _, _, (index, first, sibling) = build([parents, parents], [4, 4], tree.QLEN_ONLY)
    predicts, accept = torch.zeros(2 * n, dtype=torch.int32), torch.full((2, n), -1, dtype=torch.int32)
    count = torch.zeros(2, dtype=torch.int32)
    candidates = torch.tensor([[9] * n, tokens])  # the first request's draft matches nothing
    target = torch.tensor([wanted, wanted])
    sgl_kernel.verify_tree_greedy_cpu(
        predicts=predicts, accept_index=accept, accept_token_num=count, candidates=candidates,
        retrive_index=index, retrive_next_token=first, retrive_next_sibling=sibling, target_predict=target,
    )  # fmt: skip
    path = longest_match(parents, tokens, wanted)
    assert count.tolist() == [0, len(path) - 1]
    assert accept[0].tolist() == [0] + [-1] * (n - 1)
    assert accept[1].tolist() == [n + node for node in path] + [-1] * (n - len(path))
    assert [predicts[n + node].item() for node in path] == [wanted[node] for node in path]


def test_a_path_is_cut_at_the_room_for_it():
    chain = torch.tensor([[0, 1, 2]])
    accept, count = torch.full((1, 2), -1), torch.zeros(1, dtype=torch.int32)
    sgl_kernel.verify_tree_greedy_cpu(
        torch.zeros(3, dtype=torch.int32), accept, count, torch.tensor([[5, 6, 7]]), chain,
        torch.tensor([[1, 2, -1]]), torch.full((1, 3), -1), torch.tensor([[6, 7, 8]]),
    )  # fmt: skip
    assert accept.tolist() == [[0, 1]]
    assert count.tolist() == [1]


def test_an_empty_batch_is_fine():
    empty = torch.empty(0, dtype=torch.int64)
    links = [torch.empty(0, 4, dtype=torch.int64) for _ in range(3)]
    none = torch.empty(0, 3, dtype=torch.int64)
    sgl_kernel.build_tree_kernel_efficient_cpu(none, none, empty, empty.bool(), empty, *links, 2, 3, 4, tree.QLEN_ONLY)
    sgl_kernel.reconstruct_indices_from_tree_mask_cpu(empty.bool(), empty, empty, *links, 0, 4)


def test_a_packed_mask_is_refused():
    links = [torch.empty(1, 1, dtype=torch.int64) for _ in range(3)]
    none, one = torch.empty(1, 0, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="mask mode 2"):
        sgl_kernel.build_tree_kernel_efficient_cpu(none, none, one, one, one, *links, 1, 1, 1, 2)
