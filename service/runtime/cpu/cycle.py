# ruff: noqa: ANN401, FBT003, N803, N806, PLC0415  SGLang's objects and ops; shape suffixes; its imports wait for prepare_process
"""EAGLE-3's cycle (draft, verify, extend) and the plain decoding step on passes.py: hooks on SGLang's workers.

What is drafted and emitted is the same; a cycle of a small model loses most of the Python between its passes. Batches
and models that passes.py does not serve, and drafts that are not EAGLE-3's one layer, go SGLang's own way.

Shapes: B requests, K branches each (topk), R = B * K rows, S draft steps, N tokens verified for each request, the root
included, D draft vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import coupling, decoder, passes, sampling


def _served(target: Any, drafts: Any, batch: Any) -> bool:
    """Whether all three passes of this batch's cycles can be run from here: a request never changes ways within one."""
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    runner, one_page = drafts.draft_runner, drafts.token_to_kv_pool_allocator.page_size == 1
    return (
        passes.wants_tokens_only(batch)
        and passes.can_run(target.model_runner)
        and type(runner.model) is LlamaForCausalLMEagle3
        and getattr(runner.model.lm_head, "use_intel_amx_backend", False)
        and decoder.layers_of(runner.model.model) is not None
        and runner.canary_manager is None
        and (drafts.topk == 1 or one_page)
    )


def _propose(drafts: Any, normed_RE: Tensor, positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    """Probabilities and draft ids of the K likeliest tokens, both [R, K]; nobody looks at a chain's probability."""
    draft = drafts.draft_runner.model
    logits_RD = torch.ops.sgl_kernel.weight_packed_linear(normed_RE, draft.lm_head.weight, None, True)
    logits_RD = coupling.add_noise(logits_RD[:, : draft.config.draft_vocab_size], draft, positions, batch)
    if drafts.topk == 1:
        ids = torch.ops.aerie_cpu.likeliest_tokens(logits_RD).unsqueeze(1)
        return torch.ones(ids.shape), ids
    probs, ids = logits_RD.float().softmax(-1).topk(drafts.topk, dim=-1)
    return probs, ids


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
    """Around EagleDraftWorker.draft: the tree to verify."""
    if options.get("with_topology") or not _served(drafts.target_worker, drafts, batch):
        return sglangs(drafts, batch, **options)
    from sglang.srt.speculative import eagle_utils, spec_utils

    topk, steps, seq_lens = drafts.topk, drafts.speculative_num_steps, batch.seq_lens
    B, R = len(seq_lens), len(seq_lens) * topk
    slots_SR = passes.slots_after(batch, topk * steps).view(B, topk, steps).permute(2, 0, 1).reshape(steps, R)
    table, rows = batch.req_to_token_pool.req_to_token, batch.req_pool_indices
    if topk > 1:  # every branch follows its own tokens
        table = drafts.draft_attn_backend.build_draft_decode_metadata(
            table, rows, seq_lens, topk, steps, drafts.draft_attn_backend.pool_len
        )
        rows = torch.arange(R)
    starts_R = seq_lens.repeat_interleave(topk)
    one = torch.ones_like(starts_R)
    topk_p, topk_index, hidden_RE = batch.spec_info.topk_p, batch.spec_info.topk_index, batch.spec_info.hidden_states
    scores, grown = None, []
    for step in range(steps):
        if drafts.hot_token_id is not None:
            topk_index = drafts.hot_token_id[topk_index]
        if topk == 1:
            input_ids = topk_index.flatten()
            grown.append((topk_p, topk_index, None))
        else:
            input_ids, hidden_RE, scores, tree = spec_utils.select_top_k_tokens(
                step, topk_p, topk_index, hidden_RE, scores, topk
            )
            grown.append(tree)
        if step < steps - 1:
            positions_R = starts_R + step
            span = decoder.Span(slots_SR[step], table, rows, positions_R + 1, one)
            normed_RE, hidden_RE = _run_layer(drafts, hidden_RE, input_ids, positions_R, span)
            topk_p, topk_index = _propose(drafts, normed_RE, positions_R, batch)
    scores_of, tokens_of, parents_of = (list(part) for part in zip(*grown, strict=True))
    if topk == 1:
        return _chain(batch, torch.cat(tokens_of, dim=1))
    parents, selected, tokens = eagle_utils.organize_draft_results(
        scores_of, tokens_of, parents_of, drafts.speculative_num_draft_tokens
    )
    return _tree(drafts, batch, parents, selected, tokens)


@functools.cache
def _chain_links(B: int, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """A chain's node indices, each node's child and its sibling, all [B, N]."""
    child = torch.arange(1, N + 1)
    child[-1] = -1
    return torch.arange(B * N).view(B, N), child.repeat(B, 1), torch.full((B, N), -1)


def _chain(batch: Any, tokens_BS: Tensor) -> Any:
    """A chain needs no mask: attention to all that comes before is what it means."""
    tokens_BN = torch.cat((batch.spec_info.bonus_tokens.unsqueeze(1), tokens_BS), dim=1)
    B, N = tokens_BN.shape
    positions = (batch.seq_lens.unsqueeze(1) + torch.arange(N)).flatten()
    return _verify_input(tokens_BN.flatten(), None, positions, _chain_links(B, N), (N - 1, 1, N))


def _tree(drafts: Any, batch: Any, parents: Tensor, selected: Tensor, tokens: Tensor) -> Any:
    from sglang.srt.speculative import eagle_utils

    shape = (drafts.speculative_num_steps, drafts.topk, drafts.speculative_num_draft_tokens)
    mask, positions, index, child, sibling, tokens = eagle_utils.build_tree_kernel_efficient(
        batch.spec_info.bonus_tokens, parents, selected, tokens, batch.seq_lens, 0,
        shape[1], shape[0], shape[2], eagle_utils.TreeMaskMode.QLEN_ONLY,
    )  # fmt: skip
    return _verify_input(tokens, mask, positions, (index, child, sibling), shape)


def _verify_input(
    tokens: Tensor,
    mask: Tensor | None,
    positions: Tensor,
    links: tuple[Tensor, Tensor, Tensor],
    shape: tuple[int, int, int],
) -> Any:
    from sglang.srt.speculative.eagle_info import EagleVerifyInput

    index, child, sibling = links
    steps, topk, N = shape
    return EagleVerifyInput(
        draft_token=tokens, custom_mask=mask, positions=positions, retrieve_index=index, retrieve_next_token=child,
        retrieve_next_sibling=sibling, retrieve_cum_len=None, spec_steps=steps, topk=topk, draft_token_num=N,
        capture_hidden_mode=None, seq_lens_sum=None, seq_lens_cpu=None,
    )  # fmt: skip


def verify(sglangs: Callable[..., Any], worker: Any, batch: Any, *args: Any, **options: Any) -> Any:
    """Around EAGLEWorkerV2.verify: one pass of the target over every request's tree, and the tokens it gives."""
    if not _served(worker.target_worker, worker.draft_worker, batch):
        return sglangs(worker, batch, *args, **options)
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.managers.utils import GenerationBatchResult
    from sglang.srt.speculative import eagle_info, eagle_worker_common

    tree, seq_lens, info = batch.spec_info, batch.seq_lens, batch.sampling_info
    B, N = len(seq_lens), tree.draft_token_num
    batch.out_cache_loc = passes.slots_after(batch, N).flatten()
    table, extends = batch.req_to_token_pool.req_to_token, torch.full_like(seq_lens, N)
    mask = None if tree.tree_topk == 1 else tree.custom_mask
    span = decoder.Span(batch.out_cache_loc, table, batch.req_pool_indices, seq_lens + N, extends, mask)
    logits_TV, features = passes.run_target(worker.target_worker.model_runner, tree.draft_token, tree.positions, span)
    info.verify_positions = tree.positions
    targets_BN = sampling.draw_tree_targets(
        next_token_logits=logits_TV, sampling_info=info, batch_size=B, verify_width=N
    )
    output = LogitsProcessorOutput(next_token_logits=None, hidden_states=features)
    tokens, accept_index, accept_lens = _accept(tree, targets_BN)
    if tree.tree_topk != 1:  # the accepted path to the front, in the cache and in what the draft reads of it
        tokens = eagle_worker_common._finalize_accept_tree_path(
            batch, accept_index, accept_lens, tokens, output, B,
            token_to_kv_pool_allocator=worker.token_to_kv_pool_allocator, num_draft_tokens=N,
        )  # fmt: skip
    bonus = tokens.view(B, N).gather(1, accept_lens.long().unsqueeze(1) - 1).squeeze(1).int()
    return GenerationBatchResult(
        logits_output=output, next_token_ids=tokens, speculative_num_draft_tokens=N, accept_lens=accept_lens,
        accept_index=accept_index, new_seq_lens=seq_lens + accept_lens,
        next_draft_input=eagle_info.EagleDraftInput(bonus_tokens=bonus),
    )  # fmt: skip


def _accept(tree: Any, targets_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """int32: the target's tokens [B * N], the accepted nodes [B, depth] (flat, -1 after the last), how many [B]."""
    B, N = targets_BN.shape
    drafted_BN = tree.draft_token.view(B, N)
    if tree.tree_topk == 1:
        correct = (drafted_BN[:, 1:] == targets_BN[:, :-1]).cumprod(1).sum(1, dtype=torch.int32)
        nodes = torch.where(torch.arange(N) <= correct.unsqueeze(1), tree.retrieve_index, -1)
        return targets_BN.flatten().int(), nodes.int(), correct + 1
    from sglang.srt.speculative import eagle_utils

    tokens, nodes, correct = eagle_utils.verify_tree_greedy_func(
        predicts=torch.zeros(B * N, dtype=torch.int32),
        accept_index=torch.full((B, tree.max_tree_depth), -1, dtype=torch.int32),
        accept_token_num=torch.empty(B, dtype=torch.int32),
        candidates=drafted_BN,
        retrieve_index=tree.retrieve_index,
        retrieve_next_token=tree.retrieve_next_token,
        retrieve_next_sibling=tree.retrieve_next_sibling,
        target_predict=targets_BN,
        topk=tree.tree_topk,
    )
    return tokens, nodes, correct + 1


def extend(sglangs: Callable[..., Any], drafts: Any, batch: Any, result: Any, **options: Any) -> None:
    """Around EagleDraftWorker._draft_extend_for_decode: the draft reads what was accepted, and proposes what follows.

    It reads all N tokens of each request; those after the accepted ones are overwritten before anybody looks at them.
    """
    if not _served(drafts.target_worker, drafts, batch):
        sglangs(drafts, batch, result, **options)
        return
    seq_lens, N = batch.seq_lens, drafts.speculative_num_draft_tokens
    offsets_N = torch.arange(N)
    positions = (seq_lens.unsqueeze(1) + offsets_N).flatten()
    table, extends = batch.req_to_token_pool.req_to_token, torch.full_like(seq_lens, N)
    span = decoder.Span(batch.out_cache_loc, table, batch.req_pool_indices, seq_lens + N, extends)
    features = result.logits_output.hidden_states
    normed, stream = _run_layer(drafts, features, result.next_token_ids.long(), positions, span)
    last_B = torch.arange(0, len(positions), N) + result.accept_lens - 1
    following = result.next_draft_input
    following.topk_p, following.topk_index = _propose(drafts, normed[last_B], positions[last_B], batch)
    following.hidden_states = stream[last_B]


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
