"""The losslessness canary: now and then, a greedy answer of a speculative pool is checked against the baseline.

Owns which answers are checked, how often, on which baseline, and the count of the results. Refuses to own the replay's
form (replay.py), the comparison (compare.py) and serving: a check begins when the client has its answer, and gives way
to everybody. What it finds is counted, and a mismatch is logged without any text.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from service.gateway import replay, sglang
from service.gateway.breaker import State
from service.gateway.compare import Result, Verdict, compare
from service.gateway.config import LosslessnessConfig
from service.gateway.errors import GatewayError
from service.gateway.exchange import Exchange
from service.gateway.fleet import Fleet
from service.gateway.member import Member
from service.gateway.metrics import Metrics
from service.gateway.policy import Kind
from service.gateway.pool import Pool
from service.gateway.record import RequestRecord
from service.gateway.replay import Incomparable

TIMEOUT_S = 120.0
"""Of a replay; there is one at a time, so a slow one delays nothing but the next."""
SMALL_SHARE = 1 / 8
"""Of the requests that a replica can run: up to here one more is not felt."""

CHECKED_TOKENS = 1000
"""Of an answer: to read what the baseline tells of as many takes the event loop 16 ms."""

_GREEDY = b'"temperature":0'
"""As our own JSON writes it; 0.7 begins alike and is sorted out later."""
_RID_DRAWS = 2**32

_log = logging.getLogger("aerie.losslessness")

Work = tuple[Exchange, RequestRecord, bytes]


class Canary:
    """Checks one answer at a time. What is offered while it is busy, or too soon, is left alone."""

    def __init__(self, fleet: Fleet, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._checks = metrics.losslessness_checks
        self._clock = clock
        self._work: asyncio.Queue[Work] = asyncio.Queue(1)
        self._busy = False
        self._rested_s = clock()
        self.adopt(fleet.config.losslessness)

    def adopt(self, config: LosslessnessConfig) -> None:
        """Check by these settings from now on."""
        self._config = config
        self._below = int(config.share * _RID_DRAWS)
        if self._below:
            for station in self._fleet.stations:
                if station.config.kind is Kind.SPECULATIVE:
                    for result in Result:  # a rate needs a zero to begin with
                        self._checks.labels(station.config.name, result)

    def wants(self, exchange: Exchange) -> bool:
        """Whether this answer is to be kept for a check. The request's own id is the draw."""
        return (
            self._below > 0
            and int(exchange.rid[-8:], 16) < self._below
            and exchange.plan.decision.kind is Kind.SPECULATIVE
            and exchange.translation is None
            and not exchange.own_ids
            and _GREEDY in exchange.body
            and self._is_rested
        )

    def offer(self, exchange: Exchange, record: RequestRecord, answer: bytes) -> None:
        """An answer that was kept and has been delivered."""
        known = record.usage is not None and record.usage.completion_tokens <= CHECKED_TOKENS
        if known and self.wants(exchange):  # still: another may have been offered meanwhile
            self._busy = True
            self._work.put_nowait((exchange, record, answer))

    @property
    def _is_rested(self) -> bool:
        return not self._busy and self._clock() >= self._rested_s

    async def run(self) -> None:
        """Check what is offered, for ever."""
        while True:
            work = await self._work.get()
            result: Result | None = Result.FAILED
            try:
                result = await self.check(*work)
            except Exception:  # noqa: BLE001 - the outermost loop of this task: its end would be silence
                _log.exception("unexpected error in a losslessness check")
                self._checks.labels(work[1].pool, Result.FAILED).inc()
            if result is not None:
                self._rested_s = self._clock() + 60 / self._config.per_minute
            self._busy = False

    async def check(self, exchange: Exchange, record: RequestRecord, answer: bytes) -> Result | None:
        """Compare an answer with the baseline's and count the result; None where it was left alone."""
        rid = sglang.mint_rid("canary")
        tokens = record.usage.completion_tokens if record.usage else None
        body = None if tokens is None else replay.replay_body(exchange.body, rid, tokens)
        pool = self._baseline(record)
        if body is None or pool is None:
            return None
        member = pool.choose(None)
        if member.load.busy > SMALL_SHARE * member.load.capacity or member.breaker.state is not State.CLOSED:
            return None
        try:
            verdict = await self._verdict(_Replay(pool, member, exchange, body, rid), answer)
        except (GatewayError, Incomparable, TimeoutError) as error:
            _log.info("no losslessness check", extra={"fields": {"rid": exchange.rid, "reason": _reason(error)}})
            verdict = Verdict(Result.FAILED)
        self._checks.labels(record.pool, verdict.result).inc()
        if verdict.result is Result.MISMATCH:
            _warn(exchange, record, verdict, pool.name)
        return verdict.result

    def _baseline(self, record: RequestRecord) -> Pool | None:
        """Where to ask, if a pool that speculates has answered and one that does not has no queue."""
        stations = {station.config.name: station for station in self._fleet.stations}
        served = stations.get(record.pool or "")
        if served is None or served.config.kind is not Kind.SPECULATIVE:
            return None
        for name, station in stations.items():
            pool, wanted = station.pool, self._config.baseline_pool
            is_baseline = station.config.kind is Kind.BASELINE and wanted in (None, name)
            if is_baseline and pool.capacity and not station.admission.waiting and record.model in pool.last_models:
                return pool
        return None

    async def _verdict(self, asked: "_Replay", answer: bytes) -> Verdict:
        async with asyncio.timeout(TIMEOUT_S):
            told = replay.told_to_client(answer, stream=asked.exchange.stream)
            own, tokens = replay.told_by_baseline(await asked.document())
            ends = {end for end in (told.matched, own.matched) if isinstance(end, int)}
            texts = {} if told == own else {end: await asked.text_of(end) for end in ends}
        if told == own:
            return Verdict(Result.SAME)
        return compare(told.answer(texts), own.answer(texts), tokens, self._config.epsilon)


class _Replay:
    """One replay at a replica. It is one of our requests there, as the batch has it, and none in the pool's queue."""

    def __init__(self, pool: Pool, member: Member, exchange: Exchange, body: bytes, rid: str) -> None:
        self.exchange = exchange
        self._pool, self._member, self._body, self._rid = pool, member, body, rid

    async def document(self) -> dict[str, Any]:
        """The baseline's answer.

        Raises:
            GatewayError: there is none.
        """
        return await self._ask(self.exchange.path, self._body, question=False)

    async def text_of(self, token: int) -> str:
        """How the runtime writes a token.

        Raises:
            GatewayError: it does not say.
        """
        body = {"model": orjson.loads(self._body)["model"], "tokens": [token], "skip_special_tokens": False}
        return str((await self._ask("/v1/detokenize", orjson.dumps(body), question=True)).get("text"))

    async def _ask(self, path: str, body: bytes, *, question: bool) -> dict[str, Any]:
        client = self._member.replica.client
        with self._pool.lease(self._member, question=question) as lease:
            try:
                async with client.open(path, body, prompt_param="messages") as answer:
                    document = await answer.document()
            except (TimeoutError, asyncio.CancelledError):
                with suppress(GatewayError):
                    await client.abort([self._rid])
                raise
            lease.answered()
            return document


def _reason(error: Exception) -> str:
    """Without a runtime's own words, which may quote the prompt."""
    if isinstance(error, GatewayError):
        return error.code
    return f"no answer within {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)


def _warn(exchange: Exchange, record: RequestRecord, verdict: Verdict, baseline: str) -> None:
    fields = {
        "request_id": record.request_id,
        "rid": exchange.rid,
        "pool": record.pool,
        "baseline": baseline,
        "position": verdict.position,
        "logprob_difference": verdict.gap,
        "at_least": verdict.at_least,
    }
    _log.warning("speculation changed an answer", extra={"fields": fields})
