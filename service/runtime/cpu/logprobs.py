# ruff: noqa: ANN401, N803, N806, PLC0415  SGLang's objects; shape suffixes; its imports wait for prepare_process
"""Log probabilities for the requests that ask for them, computed as SGLang's sampler does, of the tokens accepted only.

Shapes: B requests, A tokens of all, W the most tokens of one request, V vocabulary.
"""

from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from service.runtime.cpu import passes


def attach(output: Any, batch: Any, logits_AV: Tensor, tokens: Tensor, owners: list[int]) -> None:
    """To a LogitsProcessorOutput: of tokens [A], the likeliest ones and those asked for; row r is request owners[r]'s.

    Of the distribution that is drawn from, before its filters: logits / temperature, but for greedy batches, and
    wherever SGLANG_RETURN_ORIGINAL_LOGPROB says so. (sglang/srt/layers/sampler.py, Sampler.forward.)
    """
    from sglang.srt.environ import envs
    from sglang.srt.layers.logprob_processor import OutputLogprobProcessor

    logits_AV, info = logits_AV.float(), batch.sampling_info
    if not (info.is_all_greedy or envs.SGLANG_RETURN_ORIGINAL_LOGPROB.get()):
        logits_AV = logits_AV / info.temperatures[torch.tensor(owners)]
    likeliest = [batch.top_logprobs_nums[owner] for owner in owners]
    asked_for = [batch.token_ids_logprobs[owner] for owner in owners]
    result = OutputLogprobProcessor().compute_logprobs(logits_AV.log_softmax(-1), likeliest, asked_for, tokens)
    result.write_output_to(output)


def attach_accepted(output: Any, batch: Any, logits_AV: Tensor, tokens: list[list[int]]) -> None:
    """The same of each request's accepted tokens, [B][accepted]. SGLang reads rows [B, W], the accepted ones first."""
    counts = [len(accepted) for accepted in tokens]
    width, ends = max(counts), zip(accumulate(counts), counts, strict=True)
    attach(output, batch, logits_AV, torch.tensor(list(chain.from_iterable(tokens))), passes.owners_of(counts))
    rows = [min(end - count + nth, end - 1) for end, count in ends for nth in range(width)]  # what follows is not read
    for name in ("next_token_top_logprobs", "next_token_token_ids_logprobs"):
        for part in ("val", "idx"):
            if found := getattr(output, f"{name}_{part}"):
                setattr(output, f"{name}_{part}", [found[row] for row in rows])
    output.next_token_logprobs = output.next_token_logprobs[torch.tensor(rows).view(-1, width)]
