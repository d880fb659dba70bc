# ruff: noqa: ANN401  SGLang's objects
"""Refuses, with status 400, what SGLang 0.5.23 would let through to its scheduler and die of.

A token id outside the vocabulary is an IndexError in the embedding, which ends the scheduler process and with it every
request in flight. Owns nothing else: all other checks are SGLang's.
"""

from collections.abc import Iterable
from typing import Any


def outside(token_ids: Iterable[int] | None, vocab_size: int) -> int | None:
    """The first token id that is not in [0, vocab_size), if any."""
    return next((token for token in token_ids or () if not 0 <= token < vocab_size), None)


def check_token_ids(manager: Any, request: Any, input_ids: list[int] | None, *_args: object, **_kwargs: object) -> None:
    """Before TokenizerManager._validate_one_request, whose ValueError is a 400."""
    vocab_size = manager.model_config.vocab_size
    for name, token_ids in (
        ("input_ids", input_ids),
        ("token_ids_logprob", getattr(request, "token_ids_logprob", None)),
    ):
        token = outside(token_ids, vocab_size)
        if token is not None:
            raise ValueError(f"{name} holds token id {token}, which is not in [0, {vocab_size})")


def register() -> None:
    """Register the hook; SGLang applies it in load_plugins()."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415  not before prepare_process

    target = "sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request"
    HookRegistry.register(target, check_token_ids, HookType.BEFORE)
