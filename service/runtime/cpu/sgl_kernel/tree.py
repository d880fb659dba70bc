# ruff: noqa: PLR0913, PLR0917  SGLang's signatures
"""Token trees: building one from the draft's candidates, recovering one from its mask, verifying one.

Plain Python over .tolist(); the functions on lists are pure, so they can move to C++ as they are. A tree has N nodes;
node 0 is the last verified token (the root) and a parent always comes before its children. Links are SGLang's:
retrive_next_token is a node's first child, retrive_next_sibling the next child of the same parent, -1 for none
(kernels/ops/speculative/spec_tree.py; `retrive` is the spelling of SGLang's op schema).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NO_NODE = -1
FULL_MASK, QLEN_ONLY = 0, 1  # sglang TreeMaskMode


def parents_of(selected: Sequence[int], parent_list: Sequence[int], topk: int) -> list[int]:
    """Parent of every node, NO_NODE for the root (and for a node whose parent was not selected).

    selected[i - 1] is node i's place among all drafted candidates; they come in groups of topk with one parent,
    and parent_list[group] is that parent's place among the candidates (group 0: the root).
    """
    node_at: dict[int, int] = {}
    for i, candidate in enumerate(selected):
        node_at.setdefault(candidate, i + 1)
    groups = [candidate // topk for candidate in selected]
    return [NO_NODE, *(0 if group == 0 else node_at.get(parent_list[group], NO_NODE) for group in groups)]


def parents_from_mask(mask: Sequence[Sequence[bool]]) -> list[int]:
    """Parent of every node from a mask whose row i marks i's ancestors: the nearest (last) one before i."""
    return [max((j for j in range(i) if row[j]), default=NO_NODE) for i, row in enumerate(mask)]


def ancestor_mask(parents: Sequence[int]) -> list[list[bool]]:
    """[N, N]: row i marks i itself and its ancestors; everyone sees the root."""
    rows: list[list[bool]] = []
    for i, parent in enumerate(parents):
        row = list(rows[parent]) if parent != NO_NODE else [True] + [False] * (len(parents) - 1)
        row[i] = True
        rows.append(row)
    return rows


def child_links(parents: Sequence[int]) -> tuple[list[int], list[int]]:
    """(first child, next sibling) of every node, children in ascending order."""
    first, sibling = [NO_NODE] * len(parents), [NO_NODE] * len(parents)
    for i in range(len(parents) - 1, 0, -1):
        if parents[i] != NO_NODE:
            sibling[i], first[parents[i]] = first[parents[i]], i
    return first, sibling


def accepted_path(
    first: Sequence[int], sibling: Sequence[int], tokens: Sequence[int], wanted: Sequence[int]
) -> list[int]:
    """The longest path from the root on which every token is what the target wanted at its parent."""
    path = [0]
    while True:
        child = first[path[-1]]
        while child != NO_NODE and tokens[child] != wanted[path[-1]]:
            child = sibling[child]
        if child == NO_NODE:
            return path
        path.append(child)


def _write_links(parents: list[list[int]], index: Tensor, next_token: Tensor, next_sibling: Tensor) -> None:
    links = [child_links(tree) for tree in parents]
    index.copy_(torch.arange(index.numel()).view_as(index))
    next_token.copy_(torch.tensor([first for first, _ in links]).view_as(next_token))
    next_sibling.copy_(torch.tensor([sibling for _, sibling in links]).view_as(next_sibling))


def _write_positions(positions: Tensor, masks: list[list[list[bool]]], seq_lens: list[int]) -> None:
    """seq_len + depth, a node's depth being the number of its ancestors (which all come before it)."""
    depths = [[sum(row[:i]) for i, row in enumerate(mask)] for mask in masks]
    positions.copy_((torch.tensor(depths) + torch.tensor(seq_lens).unsqueeze(1)).view_as(positions))


def _write_masks(tree_mask: Tensor, masks: list[list[list[bool]]], seq_lens: list[int], mode: int) -> None:
    if mode not in (FULL_MASK, QLEN_ONLY):
        raise NotImplementedError(f"tree mask mode {mode}: Aerie's CPU runtime has FULL_MASK and QLEN_ONLY")
    flat, at = tree_mask.view(-1), 0
    for mask, length in zip(masks, seq_lens, strict=True):
        prefix = length if mode == FULL_MASK else 0  # the caller filled the prefix columns
        nodes = len(mask)
        block = flat[at : at + nodes * (prefix + nodes)].view(nodes, prefix + nodes)
        block[:, prefix:] = torch.tensor(mask)
        at += block.numel()


def build_tree_kernel_efficient_cpu(
    parent_list: Tensor, selected_index: Tensor, verified_seq_len: Tensor, tree_mask: Tensor, positions: Tensor,
    retrive_index: Tensor, retrive_next_token: Tensor, retrive_next_sibling: Tensor, topk: int, depth: int,
    draft_token_num: int, tree_mask_mode: int,
) -> None:  # fmt: skip
    """Lay out B trees of draft_token_num nodes: mask, positions [B * N] = seq_len + depth, links and indices [B, N].

    parent_list [B, groups] and selected_index [B, N - 1] come from organize_draft_results (speculative/eagle_utils.py).
    """
    del depth, draft_token_num
    lists = zip(selected_index.tolist(), parent_list.tolist(), strict=True)
    parents = [parents_of(selected, candidates, topk) for selected, candidates in lists]
    if not parents:
        return
    masks, seq_lens = [ancestor_mask(tree) for tree in parents], verified_seq_len.tolist()
    _write_masks(tree_mask, masks, seq_lens, int(tree_mask_mode))
    _write_positions(positions, masks, seq_lens)
    _write_links(parents, retrive_index, retrive_next_token, retrive_next_sibling)


def reconstruct_indices_from_tree_mask_cpu(
    tree_mask: Tensor, verified_seq_len: Tensor, positions: Tensor, retrive_index: Tensor, retrive_next_token: Tensor,
    retrive_next_sibling: Tensor, batch_size: int, draft_token_num: int,
) -> None:  # fmt: skip
    """NGRAM drafts come as masks [B, N, N]; write the positions, links and indices that belong to them."""
    if batch_size == 0:
        return
    masks = tree_mask.view(batch_size, draft_token_num, draft_token_num).tolist()
    _write_positions(positions, masks, verified_seq_len.tolist())
    _write_links([parents_from_mask(mask) for mask in masks], retrive_index, retrive_next_token, retrive_next_sibling)


def verify_tree_greedy_cpu(
    predicts: Tensor, accept_index: Tensor, accept_token_num: Tensor, candidates: Tensor, retrive_index: Tensor,
    retrive_next_token: Tensor, retrive_next_sibling: Tensor, target_predict: Tensor,
) -> None:  # fmt: skip
    """Accept the longest path of draft tokens that equal the target's token at their parent.

    candidates and target_predict are [B, N]. Writes accept_index [B, max_depth] (flat indices of the path, root first),
    accept_token_num [B] (draft tokens accepted) and predicts [B * N] at the path: the target's token there, the last of
    which is the bonus token.
    """
    target = target_predict.view_as(candidates)
    lists = (candidates, target, retrive_index, retrive_next_token, retrive_next_sibling)
    rows = zip(*(t.tolist() for t in lists), strict=True)
    for b, (tokens, wanted, flat_index, first, sibling) in enumerate(rows):
        path = accepted_path(first, sibling, tokens, wanted)[: accept_index.shape[1]]
        flat = torch.tensor([flat_index[node] for node in path])
        predicts[flat] = torch.tensor([wanted[node] for node in path], dtype=predicts.dtype)
        accept_index[b, : len(path)] = flat.to(accept_index.dtype)
        accept_token_num[b] = len(path) - 1
