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
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import coupling, decoder, growth, logprobs, passes, sampling


@functools.cache
def p_min() -> dict[int, float]:
    """From each batch size on, how likely to be accepted a token must be to be verified; as launch.py says."""
    rows: dict[str, float] = json.loads(os.environ.get("AERIE_DRAFT_P_MIN", "{}"))
    return {int(batch_size): least for batch_size, least in rows.items()}


@dataclass
class Trees:
    """What a cycle verifies; stands for SGLang's EagleVerifyInput between this module's hooks."""

    tokens: list[list[int]]  # [B][N], the last verified token first
    parents: list[list[int]]  # [B][N], growth.ROOT for the root
    slots: list[list[int]]  # in the cache, [B][N or more]
    chains: bool
    emitted: list[list[int]] = field(default_factory=list)  # [B][accepted], what the target drew; filled in by verify
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
        passes.samples_as_is(batch)
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
    lengths, spec = batch.seq_lens.tolist(), batch.spec_info
    least = growth.p_min_at(p_min(), len(lengths))
    slots, growths = passes.slots_after(batch, max(N, K * steps)), [growth.Growth(K, least) for _ in lengths]
    # Every leaf has a list of slots of its own: it sees the path that it continues, and nothing else that was drafted.
    table = batch.req_to_token_pool.req_to_token[:, : max(lengths) + steps].index_select(0, batch.req_pool_indices)
    probs, ids, hidden = spec.topk_p, spec.topk_index, spec.hidden_states
    for step in range(steps):
        if drafts.hot_token_id is not None:
            ids = drafts.hot_token_id[ids]
        followed, counts = _grow(growths, probs.tolist(), ids.tolist())
        if step == steps - 1 or not growth.pays(growths, least):
            break
        owners, rows = passes.owners_of(counts), torch.tensor(followed)
        into = torch.tensor([slots[b][k * steps + step] for b, count in enumerate(counts) for k in range(count)])
        positions = torch.tensor([lengths[owner] + step for owner in owners])
        hidden, table = hidden.index_select(0, rows), table.index_select(0, rows)
        table.scatter_(1, positions.unsqueeze(1), into.int().unsqueeze(1))
        input_ids = torch.tensor([token for tree in growths for token in tree.leaf_tokens()])
        ones = torch.ones_like(positions)
        span = decoder.Span(into, table, torch.arange(len(owners)), positions + ones, ones)
        normed, hidden = _run_layer(drafts, hidden, input_ids, positions, span)
        probs, ids = _propose(drafts, normed, positions, batch.sampling_info, torch.tensor(owners))
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
    sizes, lengths, mask = [len(tokens) for tokens in trees.tokens], batch.seq_lens.tolist(), None
    owners, depths = passes.owners_of(sizes), [node for size in sizes for node in range(size)]
    if not trees.chains:
        rows = [row for parents in trees.parents for row in tree.ancestor_mask(parents)]
        mask, depths = list(chain.from_iterable(rows)), [sum(row) - 1 for row in rows]
    input_ids = torch.tensor(list(chain.from_iterable(trees.tokens)))
    positions = torch.tensor([lengths[owner] + depth for owner, depth in zip(owners, depths, strict=True)])
    span = passes.span_after(batch, trees.slots, sizes, mask)
    logits_TV, features = passes.run_target(worker.target_worker.model_runner, input_ids, positions, span)
    drawn = sampling.draw_targets(logits_TV, batch.sampling_info, positions, torch.tensor(owners)).tolist()
    paths, accepted = list[list[int]](), list[int]()
    for parents, tokens, end in zip(trees.parents, trees.tokens, accumulate(sizes), strict=True):
        first = end - len(tokens)
        paths.append(tree.accepted_path(*tree.child_links(parents), tokens, drawn[first:end]))
        accepted += [first + node for node in paths[-1]]
        trees.emitted.append([drawn[first + node] for node in paths[-1]])
    if not trees.chains:
        _move_to_front(worker, trees.slots, paths)
    rows_A, width = torch.tensor(accepted), max(sizes)
    output = LogitsProcessorOutput(next_token_logits=None, hidden_states=features.index_select(0, rows_A))
    if batch.return_logprob:
        logprobs.attach_accepted(output, batch, logits_TV.index_select(0, rows_A), trees.emitted)
    accept_lens = torch.tensor([len(path) for path in paths], dtype=torch.int32)
    return GenerationBatchResult(
        logits_output=output,
        next_token_ids=torch.tensor([id_ for ids in trees.emitted for id_ in ids + [0] * (width - len(ids))]),
        speculative_num_draft_tokens=width,
        accept_lens=accept_lens,
        cap_lens=torch.tensor(sizes),
        new_seq_lens=batch.seq_lens + accept_lens,
        next_draft_input=EagleDraftInput(
            bonus_tokens=torch.tensor([ids[-1] for ids in trees.emitted], dtype=torch.int32)
        ),
    )


def _move_to_front(worker: Any, slots: list[list[int]], paths: list[list[int]]) -> None:
    """The accepted nodes' keys and values to where a sequence has them."""
    moves = [
        (own[to], own[node])
        for own, path in zip(slots, paths, strict=True)
        for to, node in enumerate(path)
        if node != to
    ]
    if moves:
        targets, sources = torch.tensor(moves).unbind(1)
        worker.target_worker.model_runner.token_to_kv_pool.move_kv_cache(targets, sources)


def extend(sglangs: Callable[..., Any], drafts: Any, batch: Any, result: Any, **options: Any) -> None:
    """Around EagleDraftWorker._draft_extend_for_decode: the draft reads what was accepted, and proposes on."""
    trees = batch.spec_info
    if not isinstance(trees, Trees):
        sglangs(drafts, batch, result, **options)
        return
    counts = [len(ids) for ids in trees.emitted]
    input_ids = torch.tensor(list(chain.from_iterable(trees.emitted)))
    starts = zip(batch.seq_lens.tolist(), counts, strict=True)
    positions = torch.tensor([length + nth for length, count in starts for nth in range(count)])
    span = passes.span_after(batch, trees.slots, counts)
    normed, stream = _run_layer(drafts, result.logits_output.hidden_states, input_ids, positions, span)
    last, following = torch.tensor([end - 1 for end in accumulate(counts)]), result.next_draft_input
    normed, positions = normed.index_select(0, last), positions.index_select(0, last)
    following.topk_p, following.topk_index = _propose(
        drafts, normed, positions, batch.sampling_info, torch.arange(len(counts))
    )
    following.hidden_states = stream.index_select(0, last)


def decode(sglangs: Callable[..., Any], worker: Any, batch: Any, *args: Any, **options: Any) -> Any:
    """Around TpModelWorker.forward_batch_generation: one token for each request, without speculation."""
    if not (
        batch is not None
        and batch.forward_mode.is_decode()
        and batch.spec_algorithm.is_none()
        and passes.samples_as_is(batch)
        and passes.can_run(worker.model_runner)
    ):
        return sglangs(worker, batch, *args, **options)
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.managers.utils import GenerationBatchResult

    table, lengths = batch.req_to_token_pool.req_to_token, batch.seq_lens
    span = decoder.Span(batch.out_cache_loc, table, batch.req_pool_indices, lengths, torch.ones_like(lengths))
    logits_BV, _ = passes.run_target(worker.model_runner, batch.input_ids, lengths - 1, span)
    drawn = sampling.draw_targets(logits_BV, batch.sampling_info, lengths - 1, torch.arange(len(lengths)))
    output = LogitsProcessorOutput(next_token_logits=None)
    if batch.return_logprob:
        logprobs.attach(output, batch, logits_BV, drawn, list(range(len(lengths))))
    return GenerationBatchResult(logits_output=output, next_token_ids=drawn)


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
