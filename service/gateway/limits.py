"""Limits per API key: requests a second, tokens a minute, requests at a time.

Owns what each key has used and when a refused request may come back. Refuses to own what a key may use (keys.py) and
the gateway's own capacity. All or nothing: a refused request is charged nothing.

Tokens are charged by an estimate on admission and settled by the real usage, into debt if the estimate was too low. A
lease that is never settled keeps its estimate: leaving before the usage is known must not be free.

Several workers tell one another what each key uses (board.py): what it used elsewhere is charged here as well, so a
limit holds for all of them together, if a moment late. Places are told of when they change, and asked for before a
request is refused: a client that begins one request after the other's end is never told that it runs two.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Self

from service.gateway.bucket import Bucket
from service.gateway.errors import InvalidRequest, RateLimited, Unauthorized
from service.gateway.keys import Key, Limits

COMPLETION_GUESS_TOKENS = 512
"""Charged per choice where the request sets no limit."""
SLOT_WAIT_NS = 10**9
"""When another request of the same key ends is not known."""


def estimate_tokens(*, prompt_tokens: int, token_limit: int | None, choices: int, context_length: int | None) -> int:
    """What a request may use: all its prompts, and what each choice may say; bounded by the context, if it is known."""
    completion = COMPLETION_GUESS_TOKENS if token_limit is None else token_limit
    asked = prompt_tokens + choices * completion
    return asked if context_length is None else min(asked, choices * context_length)


class Use(NamedTuple):
    """What the requests of one key have taken at one worker since that began, and how many run there now."""

    requests: int
    tokens: int
    running: int


class Told(NamedTuple):
    """What a worker says of its keys; `life` tells it from its successor, which begins at nothing."""

    life: int
    uses: Mapping[str, Use]


_NOTHING = Use(0, 0, 0)


@dataclass(slots=True)
class _Account:
    """What one key has used."""

    limits: Limits
    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0
    elsewhere: int = 0
    """Running at other workers."""
    taken_requests: int = 0
    taken_tokens: int = 0

    @property
    def limited(self) -> bool:
        """Whether anything is."""
        return self.requests is not None or self.tokens is not None or self.limits.concurrent is not None

    def take(self, requests: int, tokens: int, now_ns: int) -> None:
        """Charge for it."""
        if self.requests is not None:
            self.requests.take(requests, now_ns)
        if self.tokens is not None:
            self.tokens.take(tokens, now_ns)

    def headers(self, now_ns: int) -> dict[str, str]:
        headers = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, bucket.level(now_ns)))
                headers[f"x-ratelimit-reset-{name}"] = _duration(bucket.wait_ns(bucket.capacity, now_ns))
        return headers

    def obstacles(self, estimate: int, now_ns: int) -> Iterator[tuple[int, str]]:
        """What stands in a request's way: how long, and what."""
        limits = self.limits
        if limits.concurrent is not None and self.running + self.elsewhere >= limits.concurrent:
            yield SLOT_WAIT_NS, f"{limits.concurrent} requests at a time"
        if self.requests is not None and (wait_ns := self.requests.wait_ns(1, now_ns)):
            yield wait_ns, f"{limits.requests_per_s:g} requests per second, {self.requests.capacity} at once"
        if self.tokens is not None and (wait_ns := self.tokens.wait_ns(estimate, now_ns)):
            left = f"{self.tokens.level(now_ns)} left, {estimate} needed"
            yield wait_ns, f"{self.tokens.capacity} tokens per minute, {left}"


class Allowance:
    """An admitted request's place: a context, left when the request is over."""

    def __init__(self, account: _Account, estimate: int, clock_ns: Callable[[], int], tell: Callable[[], None]) -> None:
        self._account = account
        self._tell = tell
        self._bucket = account.tokens  # if the limit is lifted meanwhile, the charge is settled where it was made
        self._charged = estimate
        self._clock_ns = clock_ns

    def __enter__(self) -> Self:
        self._run(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(-1)

    def _run(self, requests: int) -> None:
        self._account.running += requests
        if self._account.limits.concurrent is not None:
            self._tell()

    def settle(self, tokens: int) -> None:
        """Charge this many tokens instead of what was charged before; 0 where the runtime did no work."""
        if self._bucket is not None:
            self._bucket.take(tokens - self._charged, self._clock_ns())
        self._account.taken_tokens += tokens - self._charged
        self._charged = tokens

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's x-ratelimit-*, as of now; none for what is not limited."""
        return self._account.headers(self._clock_ns()) if self._account.limited else {}


class Limiter:
    """One account per key."""

    def __init__(self, keys: Iterable[Key], clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._accounts: dict[str, _Account] = {}
        self._life = secrets.randbits(60)
        self._heard: dict[int, Told] = {}
        self._tell: Callable[[], None] = _nobody
        self._ask: Callable[[], None] = _nobody
        self.adopt(keys)

    def share(self, tell: Callable[[], None], ask: Callable[[], None]) -> None:
        """With other workers: `tell` lets them know what was used here, `ask` ends in a call of `hear`."""
        self._tell, self._ask = tell, ask

    def adopt(self, keys: Iterable[Key]) -> None:
        """Know these keys and no others. A key whose id stays keeps what it has used."""
        now_ns = self._clock_ns()
        self._accounts = {key.id: _adopted(self._accounts.get(key.id), key.limits, now_ns) for key in keys}

    def admit(self, key: Key, estimate: int) -> Allowance:
        """A place for one request; `estimate` is in tokens.

        Raises:
            RateLimited: not now; it says when.
            InvalidRequest: never; the request alone is larger than the limit.
            Unauthorized: the key was withdrawn after the request was authenticated.
        """
        account = self._accounts.get(key.id)
        if account is None:
            raise Unauthorized("The API key has been withdrawn.")
        most = account.limits.concurrent
        if most is not None and account.elsewhere and account.running + account.elsewhere >= most:
            self._ask()
        now_ns = self._clock_ns()
        if account.limited:
            _check(account, key.id, estimate, now_ns)
            account.take(1, estimate, now_ns)
        account.taken_requests += 1
        account.taken_tokens += estimate
        return Allowance(account, estimate, self._clock_ns, self._tell)

    def tell(self) -> Told:
        """What was used here, for the other workers."""
        accounts = {name: account for name, account in self._accounts.items() if account.taken_requests}
        uses = {name: Use(had.taken_requests, had.taken_tokens, had.running) for name, had in accounts.items()}
        return Told(self._life, uses)

    def hear(self, others: Mapping[int, Told]) -> None:
        """Charge what the other workers say that was used there since they last said so."""
        now_ns = self._clock_ns()
        for name, account in self._accounts.items():
            account.elsewhere = sum(told.uses.get(name, _NOTHING).running for told in others.values())
            for worker, told in others.items():
                use, before = told.uses.get(name, _NOTHING), self._before(worker, told).get(name, _NOTHING)
                account.take(use.requests - before.requests, use.tokens - before.tokens, now_ns)
        self._heard.update(others)

    def _before(self, worker: int, told: Told) -> Mapping[str, Use]:
        """What it had said before; who is first heard of used it before our own buckets were full."""
        last = self._heard.get(worker, told)
        return last.uses if last.life == told.life else {}


def _nobody() -> None:
    """There is no other worker."""


def _check(account: _Account, key_id: str, estimate: int, now_ns: int) -> None:
    if account.tokens is not None and estimate > account.tokens.capacity:
        message = f"The request needs up to {estimate} tokens and can never pass: "
        message += f"the limit of key {key_id!r} is {account.tokens.capacity} tokens per minute."
        raise InvalidRequest(message, code="request_exceeds_limit")
    wait_ns, limit = max(account.obstacles(estimate, now_ns), default=(0, ""))
    if wait_ns:
        message = f"Rate limit reached for key {key_id!r}: {limit}. Please try again in {_duration(wait_ns)}."
        headers = account.headers(now_ns) | {"retry-after-ms": str(-(-wait_ns // 10**6))}
        raise RateLimited(message, retry_after_s=-(-wait_ns // 10**9), limit_headers=headers)


def _adopted(account: _Account | None, limits: Limits, now_ns: int) -> _Account:
    account = account or _Account(Limits(), None, None)
    if account.limits != limits:
        per_s, per_min = Fraction(str(limits.requests_per_s or 0)), Fraction(limits.tokens_per_min or 0, 60)
        account.requests = _sized(account.requests, limits.requests_at_once, per_s, now_ns)
        account.tokens = _sized(account.tokens, limits.tokens_per_min, per_min, now_ns)
        account.limits = limits
    return account


def _sized(bucket: Bucket | None, capacity: int | None, rate_per_s: Fraction, now_ns: int) -> Bucket | None:
    if capacity is None:
        return None
    if bucket is None:
        return Bucket(capacity, rate_per_s, now_ns)
    bucket.resize(capacity, rate_per_s, now_ns)
    return bucket


def _duration(duration_ns: int) -> str:
    """As OpenAI writes it: `120ms`, `1.5s`, `6m0s`; rounded up."""
    duration_ms = -(-duration_ns // 10**6)
    if 0 < duration_ms < 1000:
        return f"{duration_ms}ms"
    minutes, rest_ms = divmod(duration_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds
