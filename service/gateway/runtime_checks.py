"""Whether a runtime can serve a request.

Owns these checks and their words. Refuses to own what runtimes can do (service/capabilities.py).
"""

from collections.abc import Iterable

from service.capabilities import Feature, Rule, first_refusal
from service.gateway.errors import InvalidRequest
from service.gateway.sglang import RuntimeInfo


def check_capabilities(features: Iterable[Feature], info: RuntimeInfo) -> None:
    """Whether the table lets this runtime be asked for these.

    Raises:
        InvalidRequest: the first that it must not be asked for, and why.
    """
    refusal = first_refusal(features, info.facts)
    if refusal is not None:
        raise refused(refusal)


def check_token_limit(token_limit: tuple[str, int] | None, info: RuntimeInfo) -> None:
    """Whether an answer of this length can fit: its prompt takes a token at least; how many, the runtime will count.

    Raises:
        InvalidRequest: it cannot.
    """
    if token_limit is None or info.context_length is None:
        return
    field, limit = token_limit
    if limit >= info.context_length:
        message = f"{field}: {limit} does not fit the context of {info.context_length} tokens, prompt included."
        raise InvalidRequest(message, param=field, code="context_length_exceeded")


def refused(rule: Rule) -> InvalidRequest:
    """A row of the table as the client is told."""
    param = rule.feature.param
    return InvalidRequest(f"{param}: {rule.sentence}", param=param, code="unsupported_feature")
