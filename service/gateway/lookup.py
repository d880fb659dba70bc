"""A question that a runtime answers without generating: tokenize, detokenize.

Owns such a question's life: the key's limits, a time limit, one replica or, if that cannot be reached, another. Refuses
to own the queue and the choice of speculation: nothing is decoded, so it takes no place from what is (relay.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from service.gateway import tracing
from service.gateway.errors import Overloaded, UpstreamTimeout, UpstreamUnavailable
from service.gateway.keys import Key
from service.gateway.lifeline import Lifeline
from service.gateway.limits import Allowance
from service.gateway.member import Member
from service.gateway.pool import Pool
from service.gateway.record import RequestRecord
from service.gateway.relay import ATTEMPTS, COSTS_NOTHING, RefusalsCounted, Surroundings
from service.gateway.sglang import RuntimeInfo

QUESTIONS_AT_ONCE = 64
"""At one replica, beside what it generates: SGLang tokenizes one text after another, on the loop of its streams."""


@dataclass(frozen=True, slots=True)
class Question:
    """A valid one, as it goes upstream; `check` says whether a runtime can answer it, and raises why not."""

    path: str
    body: bytes
    model: str
    prompt_param: str
    estimate: int
    """Of its tokens."""
    key: Key
    check: Callable[[RuntimeInfo], None]


async def ask(question: Question, record: RequestRecord, around: Surroundings) -> Response:
    """The answer; the record learns which pool gave it.

    Raises:
        GatewayError: there is none.
    """
    limit_s, lifeline = around.settings.tokenize_timeout_s, Lifeline()
    with (
        RefusalsCounted(around.metrics),
        around.guard.limiter.admit(question.key, question.estimate) as allowance,
    ):
        with _refunded(allowance), lifeline.among(around.drain.lifelines):
            lifeline.allow(limit_s, lambda: UpstreamTimeout(f"The runtime did not answer within {limit_s:g} s."))
            document = await _first_answer(question, record, around)
        allowance.settle(_tokens(document, question.estimate))
        return Response(orjson.dumps(document), headers=allowance.headers, media_type="application/json")


@contextmanager
def _refunded(allowance: Allowance) -> Iterator[None]:
    """Charge nothing where the runtime did no work."""
    try:
        yield
    except COSTS_NOTHING:
        allowance.settle(0)
        raise


def _tokens(document: dict[str, Any], estimate: int) -> int:
    """How many there were; what the runtime does not say, as in an answer that is text, stays estimated."""
    said = document.get("count")
    counts = [count for count in (said if isinstance(said, list) else [said]) if isinstance(count, int)]
    return sum(counts) if counts else estimate


async def _first_answer(question: Question, record: RequestRecord, around: Surroundings) -> dict[str, Any]:
    """From the first pool that can: whether it speculates is the same to a tokenizer."""
    pools = around.fleet.pools_for(question.model, question.check)
    for pool in pools:
        record.pool = pool.name
        try:
            return await _ask_pool(question, record, pool)
        except UpstreamUnavailable:
            if pool is pools[-1]:
                raise
    raise AssertionError("there is at least one pool")


async def _ask_pool(question: Question, record: RequestRecord, pool: Pool) -> dict[str, Any]:
    tried: list[Member] = []
    full: list[Member] = []
    while True:
        member = pool.choose(None, exclude=[*tried, *full])
        if member.load.questions >= QUESTIONS_AT_ONCE:
            full.append(member)
            if pool.has_other_than([*tried, *full]):
                continue
            raise Overloaded("Too many questions at once.", retry_after_s=1)
        try:
            return await _ask_member(question, record, member, pool)
        except UpstreamUnavailable:
            tried.append(member)
            if len(tried) == ATTEMPTS or not pool.has_other_than([*tried, *full]):
                raise


async def _ask_member(question: Question, record: RequestRecord, member: Member, pool: Pool) -> dict[str, Any]:
    client = member.replica.client
    with pool.lease(member, question=True) as lease, tracing.attempt(record, member.url, question.path) as trace:
        async with client.open(question.path, question.body, trace, prompt_param=question.prompt_param) as answer:
            document = await answer.document()
        lease.answered()
        return document
