# ruff: noqa: ANN401, FBT003, N803, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""EAGLE-3's cycle (draft, verify, extend) and the plain decoding step on passes.py: hooks on SGLang's workers.

What is drafted and emitted is the same; a cycle of a small model loses most of the Python between its passes. Batches
and models that passes.py does not serve, and drafts that are not EAGLE-3's one layer, go SGLang's own way.

Shapes: B requests, K branches each (topk), R = B * K rows, N tokens verified for each request, the root included, D
draft vocabulary.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import coupling, decoder, growth, passes, sampling


@dataclass(frozen=True)
class Trees:
    """What a cycle verifies; stands for SGLang's EagleVerifyInput between this module's hooks."""

    tokens: list[list[int]]  # [B][N], the last verified token first
    parents: list[list[int]]  # [B][N], growth.ROOT for the root
    slots: Tensor  # [B, N or more], in the cache
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


def _propose(drafts: Any, normed_RE: Tensor, positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    """Probabilities and draft ids of the K likeliest tokens, both [R, K]."""
    draft = drafts.draft_runner.model
    logits_RD = torch.ops.sgl_kernel.weight_packed_linear(normed_RE, draft.lm_head.weight, None, True)
    return coupling.propose(logits_RD[:, : draft.config.draft_vocab_size], drafts.topk, draft, positions, batch)


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
    slots = passes.slots_after(batch, max(N, K * steps))
    slots_of_steps = slots[:, : K * steps].view(B, K, steps).permute(2, 0, 1).reshape(steps, B * K)
    table, rows = batch.req_to_token_pool.req_to_token, batch.req_pool_indices
    if K > 1:  # every branch has a list of slots of its own
        seq_lens, leaves = seq_lens.repeat_interleave(K), torch.arange(B * K)
        table, rows = table[rows.repeat_interleave(K), : int(seq_lens.max()) + steps], leaves
    one, growths = torch.ones_like(seq_lens), [growth.Growth(K) for _ in range(B)]
    probs, ids, hidden = spec.topk_p, spec.topk_index, spec.hidden_states
    for step in range(steps):
        if drafts.hot_token_id is not None:
            ids = drafts.hot_token_id[ids]
        followed = _grow(growths, probs.tolist(), ids.tolist())
        if step < steps - 1:
            if K > 1:  # SGLang's own loop leaves a branch the keys of whom it does not follow
                hidden = hidden[torch.tensor(followed)]
                table = table if step == 0 else table[torch.tensor(followed)]
                table[leaves, seq_lens + step] = slots_of_steps[step].int()
            input_ids = torch.tensor([token for tree in growths for token in tree.leaf_tokens()])
            positions = seq_lens + step
            span = decoder.Span(slots_of_steps[step], table, rows, positions + 1, one)
            normed, hidden = _run_layer(drafts, hidden, input_ids, positions, span)
            probs, ids = _propose(drafts, normed, positions, batch)
    kept = [tree.kept(N - 1) for tree in growths]
    tokens = [[root, *drafted] for root, (drafted, _) in zip(spec.bonus_tokens.tolist(), kept, strict=True)]
    return Trees(tokens, [parents for _, parents in kept], slots, K == 1)


def _grow(growths: list[growth.Growth], probs: list[list[float]], ids: list[list[int]]) -> list[int]:
    """A step of all trees; for each new leaf the row of the old one that it follows."""
    each, followed = len(probs) // len(growths), []
    for b, tree in enumerate(growths):
        rows = slice(b * each, (b + 1) * each)
        followed += [b * each + leaf for leaf in tree.add(probs[rows], ids[rows])]
    return followed


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
    seq_lens, info = batch.seq_lens, batch.sampling_info
    B, N = len(trees.tokens), len(trees.tokens[0])
    slots_BN, masks, depths = trees.slots[:, :N], None, [list(range(N))] * B
    if not trees.chains:
        lists = [tree.ancestor_mask(parents) for parents in trees.parents]
        masks, depths = torch.tensor(lists).flatten(), [[sum(row) - 1 for row in mask] for mask in lists]
    input_ids, positions = (
        torch.tensor(trees.tokens).flatten(),
        (seq_lens.unsqueeze(1) + torch.tensor(depths)).flatten(),
    )
    table, extends = batch.req_to_token_pool.req_to_token, torch.full_like(seq_lens, N)
    span = decoder.Span(slots_BN.flatten(), table, batch.req_pool_indices, seq_lens + N, extends, masks)
    logits, features = passes.run_target(worker.target_worker.model_runner, input_ids, positions, span)
    info.verify_positions = positions
    drawn_BN = sampling.draw_tree_targets(next_token_logits=logits, sampling_info=info, batch_size=B, verify_width=N)
    paths = [
        tree.accepted_path(*tree.child_links(parents), tokens, drawn)
        for parents, tokens, drawn in zip(trees.parents, trees.tokens, drawn_BN.tolist(), strict=True)
    ]
    drawn = drawn_BN.flatten()
    if not trees.chains:  # accepted paths to the front: in the cache, and in what the draft and the scheduler read
        front = torch.tensor(
            [b * N + node for b, path in enumerate(paths) for node in [*path, *path[:1] * (N - len(path))]]
        )
        _move_to_front(worker, slots_BN, paths)
        drawn, features = drawn[front], features[front]
    accept_lens = torch.tensor([len(path) for path in paths], dtype=torch.int32)
    last = torch.arange(0, B * N, N) + accept_lens - 1
    return GenerationBatchResult(
        logits_output=LogitsProcessorOutput(next_token_logits=None, hidden_states=features),
        next_token_ids=drawn,
        speculative_num_draft_tokens=N,
        accept_lens=accept_lens,
        new_seq_lens=seq_lens + accept_lens,
        next_draft_input=EagleDraftInput(bonus_tokens=drawn[last].int()),
    )


def _move_to_front(worker: Any, slots_BN: Tensor, paths: list[list[int]]) -> None:
    """The accepted nodes' keys and values to where a sequence has them."""
    moves = [(b, node, to) for b, path in enumerate(paths) for to, node in enumerate(path) if node != to]
    if moves:
        request, node, to = torch.tensor(moves).unbind(1)
        pool = worker.target_worker.model_runner.token_to_kv_pool
        pool.move_kv_cache(slots_BN[request, to], slots_BN[request, node])


def extend(sglangs: Callable[..., Any], drafts: Any, batch: Any, result: Any, **options: Any) -> None:
    """Around EagleDraftWorker._draft_extend_for_decode: the draft reads what was accepted, and proposes what follows.

    It reads all N tokens of each request; those after the accepted ones are overwritten before anybody looks at them.
    """
    trees, seq_lens = batch.spec_info, batch.seq_lens
    if not isinstance(trees, Trees):
        sglangs(drafts, batch, result, **options)
        return
    B, N = len(trees.tokens), len(trees.tokens[0])
    positions = (seq_lens.unsqueeze(1) + torch.arange(N)).flatten()
    table, extends = batch.req_to_token_pool.req_to_token, torch.full_like(seq_lens, N)
    span = decoder.Span(trees.slots[:, :N].flatten(), table, batch.req_pool_indices, seq_lens + N, extends)
    normed, stream = _run_layer(drafts, result.logits_output.hidden_states, result.next_token_ids, positions, span)
    last = torch.arange(0, B * N, N) + result.accept_lens - 1
    following = result.next_draft_input
    following.topk_p, following.topk_index = _propose(drafts, normed[last], positions[last], batch)
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

    lengths, info = batch.seq_lens, batch.sampling_info
    table = batch.req_to_token_pool.req_to_token
    span = decoder.Span(batch.out_cache_loc, table, batch.req_pool_indices, lengths, torch.ones_like(lengths))
    info.verify_positions = lengths - 1
    logits_BV, _ = passes.run_target(worker.model_runner, batch.input_ids, info.verify_positions, span)
    drawn = sampling.draw_tree_targets(
        next_token_logits=logits_BV, sampling_info=info, batch_size=len(lengths), verify_width=1
    )
    return GenerationBatchResult(
        logits_output=LogitsProcessorOutput(next_token_logits=None), next_token_ids=drawn.flatten()
    )


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
