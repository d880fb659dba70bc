# ruff: noqa: ANN401, FBT003, N803, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""EAGLE-3's cycle (draft, verify, extend) and the plain decoding step on passes.py: hooks on SGLang's workers.

What is drafted and emitted is the same; a cycle of a small model loses most of the Python between its passes. Batches
and models that passes.py does not serve, and drafts that are not EAGLE-3's one layer, go SGLang's own way.

Shapes: B requests, K branches of each (topk) at most, R rows in all, N nodes of a request's tree, the root included, T
nodes of all, A tokens accepted of all, V vocabulary, D draft vocabulary.
"""

import functools
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import coupling, decoder, growth, passes, sampling


@functools.cache
def p_min() -> dict[int, float]:
    """From each batch size on, how likely to be accepted a token must be to be verified; as launch.py says."""
    rows: dict[str, float] = json.loads(os.environ.get("AERIE_DRAFT_P_MIN", "{}"))
    return {int(batch_size): least for batch_size, least in rows.items()}


@dataclass(frozen=True)
class Trees:
    """What a cycle verifies; stands for SGLang's EagleVerifyInput between this module's hooks."""

    tokens: list[list[int]]  # [B][N], the last verified token first
    parents: list[list[int]]  # [B][N], growth.ROOT for the root
    slots: Tensor  # in the cache, [B, as many as the largest tree has or more]
    chains: bool
    kv_loc_plan: None = None  # SGLang's worker hands it on

    @staticmethod
    def is_verify_input() -> bool:
        """SGLang's worker asks."""
        return True


def _served(target: Any, drafts: Any, batch: Any) -> bool:
    """Whether all passes of this batch's cycle can be run from here."""
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    runner, paged = drafts.draft_runner, drafts.token_to_kv_pool_allocator.page_size > 1
    return (
        passes.wants_tokens_only(batch)
        and passes.can_run(target.model_runner)
        and type(runner.model) is LlamaForCausalLMEagle3
        and getattr(runner.model.lm_head, "use_intel_amx_backend", False)
        and decoder.layers_of(runner.model.model) is not None
        and runner.canary_manager is None
        and (drafts.topk == 1 or not paged)
    )


def _propose(drafts: Any, normed_RE: Tensor, positions: Tensor, info: Any, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and draft ids of the K likeliest tokens, both [R, K]; row r is request owners[r]'s."""
    draft = drafts.draft_runner.model
    logits_RD = torch.ops.sgl_kernel.weight_packed_linear(normed_RE, draft.lm_head.weight, None, True)
    logits_RD = logits_RD[:, : draft.config.draft_vocab_size]
    return coupling.propose(logits_RD, drafts.topk, draft, positions, info, owners)


def _run_layer(
    drafts: Any, hidden: Tensor, input_ids: Tensor, positions: Tensor, span: decoder.Span
) -> tuple[Tensor, Tensor]:
    """(what the head takes, what the next step takes), both [rows, E]."""
    runner = drafts.draft_runner
    layers = decoder.layers_of(runner.model.model)
    assert layers is not None, "_served first"
    normed, (stream,) = decoder.run_draft_layer(
        runner.model.model, layers, hidden, input_ids, positions, runner.token_to_kv_pool, span
    )
    return normed, stream


def draft(sglangs: Callable[..., Any], drafts: Any, batch: Any, **options: Any) -> Any:
    """Around EagleDraftWorker.draft: the trees to verify."""
    if options.get("with_topology") or not _served(drafts.target_worker, drafts, batch):
        return sglangs(drafts, batch, **options)
    K, steps, N = drafts.topk, drafts.speculative_num_steps, drafts.speculative_num_draft_tokens
    B, seq_lens, spec = len(batch.seq_lens), batch.seq_lens, batch.spec_info
    least = growth.p_min_at(p_min(), B)
    slots, growths = passes.slots_after(batch, max(N, K * steps)), [growth.Growth(K, least) for _ in range(B)]
    # Every leaf has a list of slots of its own: it sees the path that it continues, and nothing else that was drafted.
    table = batch.req_to_token_pool.req_to_token[batch.req_pool_indices, : int(seq_lens.max()) + steps]
    probs, ids, hidden = spec.topk_p, spec.topk_index, spec.hidden_states
    for step in range(steps):
        if drafts.hot_token_id is not None:
            ids = drafts.hot_token_id[ids]
        followed, counts = _grow(growths, probs.tolist(), ids.tolist())
        if step == steps - 1 or not growth.pays(growths, least):
            break
        (owners, branches), rows = passes.ragged(torch.tensor(counts)), torch.tensor(followed)
        positions, leaf = seq_lens[owners] + step, torch.arange(len(owners))
        hidden, table, into = hidden[rows], table[rows], slots[owners, branches * steps + step]
        table[leaf, positions] = into.int()
        input_ids = torch.tensor([token for tree in growths for token in tree.leaf_tokens()])
        span = decoder.Span(into, table, leaf, positions + 1, torch.ones_like(positions))
        normed, hidden = _run_layer(drafts, hidden, input_ids, positions, span)
        probs, ids = _propose(drafts, normed, positions, batch.sampling_info, owners)
    kept = [tree.kept(N - 1) for tree in growths]
    tokens = [[root, *drafted] for root, (drafted, _) in zip(spec.bonus_tokens.tolist(), kept, strict=True)]
    return Trees(tokens, [parents for _, parents in kept], slots, K == 1)


def _grow(growths: list[growth.Growth], probs: list[list[float]], ids: list[list[int]]) -> tuple[list[int], list[int]]:
    """A step of all trees: for each new leaf the row of the old one that it follows, and how many each tree has."""
    followed, counts, row = list[int](), list[int](), 0
    for tree in growths:
        rows = slice(row, row + len(tree.leaves))
        leaves = tree.add(probs[rows], ids[rows])
        followed += [row + leaf for leaf in leaves]
        counts.append(len(leaves))
        row = rows.stop
    return followed, counts


def verify(sglangs: Callable[..., Any], worker: Any, batch: Any, *args: Any, **options: Any) -> Any:
    """Around EAGLEWorkerV2.verify: one pass of the target over every request's tree, and the tokens it gives."""
    trees = batch.spec_info
    if not isinstance(trees, Trees):
        if trees.draft_token_num > 1 or not _served(worker.target_worker, worker.draft_worker, batch):
            return sglangs(worker, batch, *args, **options)
        roots = [[token] for token in trees.draft_token.tolist()]  # no drafts: adaptive steps of 0
        trees = Trees(roots, [[growth.ROOT]] * len(roots), passes.slots_after(batch, 1), chains=True)
        batch.spec_info = trees
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.managers.utils import GenerationBatchResult
    from sglang.srt.speculative.eagle_info import EagleDraftInput

    tree = importlib.import_module("sgl_kernel.tree")  # this process's copy, under the name SGLang uses
    sizes, masks, depths = torch.tensor([len(tokens) for tokens in trees.tokens]), None, None
    if not trees.chains:
        rows = [row for parents in trees.parents for row in tree.ancestor_mask(parents)]
        masks = torch.tensor([seen for row in rows for seen in row])
        depths = torch.tensor([sum(row) - 1 for row in rows])
    owners, nodes = passes.ragged(sizes)
    input_ids = torch.tensor([token for tokens in trees.tokens for token in tokens])
    positions = batch.seq_lens[owners] + (nodes if depths is None else depths)
    span = passes.span_after(batch, trees.slots[owners, nodes], sizes, masks)
    logits_TV, features = passes.run_target(worker.target_worker.model_runner, input_ids, positions, span)
    drawn_T = sampling.draw_targets(logits_TV, batch.sampling_info, positions, owners)
    wanted = [drawn.tolist() for drawn in torch.split(drawn_T, sizes.tolist())]
    paths = [
        tree.accepted_path(*tree.child_links(parents), tokens, drawn)
        for parents, tokens, drawn in zip(trees.parents, trees.tokens, wanted, strict=True)
    ]
    if not trees.chains:
        _move_to_front(worker, trees.slots, paths)
    accept_lens = torch.tensor([len(path) for path in paths], dtype=torch.int32)
    accepted = torch.tensor([node for path in paths for node in path])
    accepted += (sizes.cumsum(0) - sizes).repeat_interleave(accept_lens)
    drawn_A, emitted = drawn_T[accepted], torch.zeros(len(sizes), int(sizes.max()), dtype=torch.int64)
    emitted[passes.ragged(accept_lens)] = drawn_A
    return GenerationBatchResult(
        logits_output=LogitsProcessorOutput(next_token_logits=None, hidden_states=features[accepted]),
        next_token_ids=emitted.flatten(),
        speculative_num_draft_tokens=emitted.shape[1],
        accept_lens=accept_lens,
        cap_lens=sizes,
        new_seq_lens=batch.seq_lens + accept_lens,
        next_draft_input=EagleDraftInput(bonus_tokens=drawn_A[accept_lens.cumsum(0) - 1].int()),
    )


def _move_to_front(worker: Any, slots: Tensor, paths: list[list[int]]) -> None:
    """The accepted nodes' keys and values to where a sequence has them."""
    moves = [(b, node, to) for b, path in enumerate(paths) for to, node in enumerate(path) if node != to]
    if moves:
        request, node, to = torch.tensor(moves).unbind(1)
        pool = worker.target_worker.model_runner.token_to_kv_pool
        pool.move_kv_cache(slots[request, to], slots[request, node])


def extend(sglangs: Callable[..., Any], drafts: Any, batch: Any, result: Any, **options: Any) -> None:
    """Around EagleDraftWorker._draft_extend_for_decode: the draft reads what was accepted, and proposes on."""
    trees = batch.spec_info
    if not isinstance(trees, Trees):
        sglangs(drafts, batch, result, **options)
        return
    counts = result.accept_lens.long()
    owners, places = passes.ragged(counts)
    input_ids, positions = result.next_token_ids.view(len(counts), -1)[owners, places], batch.seq_lens[owners] + places
    span = passes.span_after(batch, trees.slots[owners, places], counts)
    normed, stream = _run_layer(drafts, result.logits_output.hidden_states, input_ids, positions, span)
    last, following = counts.cumsum(0) - 1, result.next_draft_input
    following.topk_p, following.topk_index = _propose(
        drafts, normed[last], positions[last], batch.sampling_info, owners[last]
    )
    following.hidden_states = stream[last]


def decode(sglangs: Callable[..., Any], worker: Any, batch: Any, *args: Any, **options: Any) -> Any:
    """Around TpModelWorker.forward_batch_generation: one token for each request, without speculation."""
    if not (
        batch is not None
        and batch.forward_mode.is_decode()
        and batch.spec_algorithm.is_none()
        and passes.wants_tokens_only(batch)
        and passes.can_run(worker.model_runner)
    ):
        return sglangs(worker, batch, *args, **options)
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.managers.utils import GenerationBatchResult

    table, lengths = batch.req_to_token_pool.req_to_token, batch.seq_lens
    span = decoder.Span(batch.out_cache_loc, table, batch.req_pool_indices, lengths, torch.ones_like(lengths))
    logits_BV, _ = passes.run_target(worker.model_runner, batch.input_ids, lengths - 1, span)
    drawn = sampling.draw_targets(logits_BV, batch.sampling_info, lengths - 1, torch.arange(len(lengths)))
    return GenerationBatchResult(logits_output=LogitsProcessorOutput(next_token_logits=None), next_token_ids=drawn)


def tell(_result: None, _controller: Any, state: dict[str, Any]) -> None:
    """After SchedulerInternalStateController._add_speculative: /server_info says what the trees depend on."""
    if p_min():
        state["speculative_draft_p_min"] = p_min()


def register() -> None:
    """Register the hooks; SGLang applies them in load_plugins(), in every process it starts."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # not before prepare_process

    eagle = "sglang.srt.speculative.eagle_worker_v2"
    for name, hook in (
        (f"{eagle}.EagleDraftWorker.draft", draft),
        (f"{eagle}.EAGLEWorkerV2.verify", verify),
        (f"{eagle}.EagleDraftWorker._draft_extend_for_decode", extend),
        ("sglang.srt.managers.tp_worker.TpModelWorker.forward_batch_generation", decode),
    ):
        HookRegistry.register(name, hook, HookType.AROUND)
    state = "sglang.srt.managers.scheduler_components.internal_state.SchedulerInternalStateController"
    HookRegistry.register(f"{state}._add_speculative", tell, HookType.AFTER)
