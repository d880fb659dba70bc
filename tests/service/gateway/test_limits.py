"""Laws of the limits: no window admits more than its burst and its rate, and no token is lost or made up."""

import asyncio
import math
from contextlib import ExitStack, suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.bucket import Bucket
from service.gateway.errors import InvalidRequest, RateLimited, Unauthorized
from service.gateway.keys import ANONYMOUS, Key, Limits
from service.gateway.limits import Limiter, estimate_tokens

SECOND_NS, MS_NS = 10**9, 10**6
LAW = settings(deadline=None)


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self):
        self.now_ns = 12_345

    def __call__(self):
        return self.now_ns


def key(key_id="alice", **limits):
    return Key(id=key_id, limits=Limits(**limits))


def limited(clock, **limits):
    alice = key(**limits)
    return alice, Limiter([alice], clock)


def refused(limiter, alice, estimate=1):
    with pytest.raises(RateLimited) as caught, limiter.admit(alice, estimate):
        pass
    return caught.value


def use(limiter, alice, estimate=1, settled=None):
    """One request from its beginning to its end; its headers."""
    with limiter.admit(alice, estimate) as lease:
        if settled is not None:
            lease.settle(settled)
        return lease.headers


# The bucket

CAPACITY = st.integers(1, 1000)
RATE = st.fractions(Fraction(1, 1000), 1000, max_denominator=1000)
WAITS = st.integers(0, 3 * SECOND_NS)


@LAW
@given(CAPACITY, RATE, st.lists(st.tuples(WAITS, st.integers(1, 50)), max_size=30))
def test_no_window_admits_more_than_the_capacity_and_what_refilled_in_it(capacity, rate, attempts):
    bucket, now_ns, admitted = Bucket(capacity, rate, 0), 0, []
    for wait_ns, amount in attempts:
        now_ns += wait_ns
        if amount <= capacity and bucket.wait_ns(amount, now_ns) == 0:
            bucket.take(amount, now_ns)
            admitted.append((now_ns, amount))
    for first, (start_ns, _) in enumerate(admitted):
        total = 0
        for at_ns, amount in admitted[first:]:
            total += amount
            assert total <= capacity + rate * (at_ns - start_ns) / SECOND_NS


@LAW
@given(CAPACITY, RATE, st.integers(0, 3000), WAITS, st.data())
def test_after_the_wait_there_is_enough_and_a_nanosecond_earlier_there_is_not(capacity, rate, taken, later_ns, data):
    bucket = Bucket(capacity, rate, 0)
    bucket.take(taken, 0)
    amount = data.draw(st.integers(1, capacity))
    wait_ns = bucket.wait_ns(amount, later_ns)
    if wait_ns:
        assert bucket.level(later_ns + wait_ns - 1) < amount
        assert bucket.wait_ns(amount, later_ns + wait_ns - 1) == 1
    assert bucket.level(later_ns + wait_ns) >= amount
    assert bucket.wait_ns(amount, later_ns + wait_ns) == 0


@LAW
@given(CAPACITY, RATE, st.lists(st.tuples(WAITS, st.integers(-50, 50)), max_size=30))
def test_a_bucket_never_holds_more_than_its_capacity(capacity, rate, steps):
    bucket, now_ns = Bucket(capacity, rate, 0), 0
    for wait_ns, amount in steps:
        now_ns += wait_ns
        bucket.take(amount, now_ns)
        assert bucket.level(now_ns) <= capacity


@LAW
@given(CAPACITY, RATE, st.integers(0, 3000), CAPACITY, RATE)
def test_a_resized_bucket_keeps_its_share_or_its_debt(capacity, rate, taken, other_capacity, other_rate):
    bucket = Bucket(capacity, rate, 0)
    bucket.take(taken, 0)
    before = bucket.level(0)
    bucket.resize(other_capacity, other_rate, 0)
    after = bucket.level(0)
    if before <= 0 or (capacity, rate) == (other_capacity, other_rate):
        assert after == before
    else:
        assert after == math.floor(before * other_capacity / capacity)
    assert after <= other_capacity
    assert bucket.wait_ns(other_capacity, 0) == math.ceil((other_capacity - after) / other_rate * SECOND_NS)


def test_a_clock_that_goes_back_refills_nothing_and_takes_nothing():
    bucket = Bucket(10, Fraction(1), 5 * SECOND_NS)
    bucket.take(4, 5 * SECOND_NS)
    assert bucket.level(SECOND_NS) == 6
    assert bucket.level(6 * SECOND_NS) == 7


# Requests


def test_a_burst_passes_and_then_the_rate():
    clock = Clock()
    alice, limiter = limited(clock, requests_per_s=4, burst=2)
    use(limiter, alice)
    use(limiter, alice)
    error = refused(limiter, alice)
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert error.message == (
        "Rate limit reached for key 'alice': 4 requests per second, 2 at once. Please try again in 250ms."
    )
    assert error.headers == {
        "retry-after": "1",
        "retry-after-ms": "250",
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "500ms",
    }
    clock.now_ns += 250 * MS_NS
    use(limiter, alice)
    refused(limiter, alice)


@LAW
@given(st.floats(0.01, 100), st.integers(1, 20), st.integers(1, 5000), st.lists(st.integers(1, 5000), max_size=20))
def test_who_waits_as_long_as_told_passes_and_a_millisecond_less_is_too_short(rate, burst, tokens, estimates):
    clock = Clock()
    alice, limiter = limited(clock, requests_per_s=rate, burst=burst, tokens_per_min=tokens)
    for estimate in (min(estimate, tokens) for estimate in estimates):
        with suppress(RateLimited):
            while True:
                use(limiter, alice, estimate)
        error = refused(limiter, alice, estimate)
        wait_ms = int(error.headers["retry-after-ms"])
        assert error.retry_after_s == math.ceil(wait_ms / 1000)
        clock.now_ns += (wait_ms - 1) * MS_NS
        refused(limiter, alice, estimate)
        clock.now_ns += MS_NS
        use(limiter, alice, estimate)


def test_keys_do_not_share_limits():
    alice, bob = key("alice", requests_per_s=1), key("bob", requests_per_s=1)
    limiter = Limiter([alice, bob], Clock())
    use(limiter, alice)
    use(limiter, bob)
    refused(limiter, alice)


def test_without_limits_everything_passes_and_no_headers_are_sent():
    limiter = Limiter([ANONYMOUS], Clock())
    assert [use(limiter, ANONYMOUS, 10**12, 10**12) for _ in range(100)] == [{}] * 100


# Requests at a time


def test_a_place_is_free_again_when_a_request_ends_however_it_ends():
    alice, limiter = limited(Clock(), concurrent=1)
    with limiter.admit(alice, 1):
        error = refused(limiter, alice)
    assert error.headers == {"retry-after": "1", "retry-after-ms": "1000"}
    assert "1 requests at a time" in error.message
    with pytest.raises(InvalidRequest), limiter.admit(alice, 1):
        raise InvalidRequest("the request failed")
    use(limiter, alice)


def test_a_cancelled_request_gives_its_place_back():
    alice, limiter = limited(Clock(), concurrent=1)

    async def request():
        with limiter.admit(alice, 1):
            await asyncio.Event().wait()

    async def run():
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        refused(limiter, alice)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        use(limiter, alice)

    asyncio.run(run())


def test_a_refused_request_is_charged_nothing():
    clock = Clock()
    alice, limiter = limited(clock, requests_per_s=1, burst=5, tokens_per_min=100, concurrent=1)
    with limiter.admit(alice, 40) as lease:
        before = lease.headers
        refused(limiter, alice, 1)
        assert lease.headers == before
    refused(limiter, alice, 61)
    assert use(limiter, alice, 60)["x-ratelimit-remaining-requests"] == "3"


# Tokens


def test_an_estimate_is_charged_and_then_replaced_by_the_real_usage():
    alice, limiter = limited(Clock(), tokens_per_min=1000)
    with limiter.admit(alice, 600) as lease:
        assert lease.headers == {
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "400",
            "x-ratelimit-reset-tokens": "36s",
        }
        assert "1000 tokens per minute, 400 left, 401 needed" in refused(limiter, alice, 401).message
        lease.settle(100)
        assert lease.headers["x-ratelimit-remaining-tokens"] == "900"
        lease.settle(150)
    assert use(limiter, alice, 0)["x-ratelimit-remaining-tokens"] == "850"


def test_a_request_that_never_learns_its_usage_keeps_its_estimate():
    alice, limiter = limited(Clock(), tokens_per_min=1000)
    use(limiter, alice, 600)
    assert use(limiter, alice, 0)["x-ratelimit-remaining-tokens"] == "400"


def test_usage_above_the_estimate_is_a_debt_that_has_to_be_waited_out():
    clock = Clock()
    alice, limiter = limited(clock, tokens_per_min=60)
    assert use(limiter, alice, 1, 180)["x-ratelimit-remaining-tokens"] == "0"
    error = refused(limiter, alice, 1)
    assert error.retry_after_s == 121
    assert error.headers["x-ratelimit-reset-tokens"] == "3m0s"
    assert "-120 left" in error.message
    clock.now_ns += 121 * SECOND_NS
    use(limiter, alice, 1)


def test_a_request_larger_than_the_limit_is_told_that_it_can_never_pass():
    alice, limiter = limited(Clock(), tokens_per_min=1000)
    with pytest.raises(InvalidRequest, match="can never pass: the limit of key 'alice' is 1000 tokens") as caught:
        use(limiter, alice, 1001)
    assert (caught.value.status, caught.value.code) == (400, "request_exceeds_limit")
    assert "retry-after" not in caught.value.headers
    use(limiter, alice, 1000)


ADMISSION = st.tuples(st.just("admit"), st.fractions(0, 1, max_denominator=10))
SETTLEMENT = st.tuples(st.just("settle"), st.none() | st.integers(0, 2000))
PAUSE = st.tuples(st.just("wait"), st.integers(0, 30))


@LAW
@given(st.integers(1, 1000), st.lists(st.one_of(ADMISSION, SETTLEMENT, PAUSE), max_size=30))
def test_what_a_bucket_lacks_is_what_was_used_and_is_still_estimated(tokens_per_min, steps):
    clock, refilled, debts, charges = Clock(), 0, 0, {}
    alice, limiter = limited(clock, tokens_per_min=tokens_per_min)
    with ExitStack() as leases:
        for step, amount in steps:
            if step == "admit":
                estimate = math.floor(tokens_per_min * amount)
                with suppress(RateLimited):
                    charges[leases.enter_context(limiter.admit(alice, estimate))] = estimate
            elif step == "wait":
                clock.now_ns += amount * SECOND_NS
                refilled += amount * Fraction(tokens_per_min, 60)
            elif charges and amount is not None:
                lease = list(charges)[amount % len(charges)]
                lease.settle(amount)
                debts += max(0, amount - charges[lease])
                charges[lease] = amount
            used, level = sum(charges.values()), limiter._accounts["alice"].tokens.level(clock.now_ns)
            assert -debts <= level <= tokens_per_min + refilled - used
            if not refilled:
                assert level == tokens_per_min - used


@LAW
@given(st.integers(0, 10**6), st.none() | st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 10**5))
def test_an_estimate_is_bounded_by_the_context_of_every_choice(prompt_tokens, token_limit, choices, context_length):
    estimate = estimate_tokens(
        prompt_tokens=prompt_tokens, token_limit=token_limit, choices=choices, context_length=context_length
    )
    assert 0 <= estimate <= choices * context_length


def test_an_estimate_is_the_prompt_and_every_choices_limit():
    assert estimate_tokens(prompt_tokens=100, token_limit=50, choices=3, context_length=4096) == 250
    assert estimate_tokens(prompt_tokens=100, token_limit=None, choices=1, context_length=4096) == 612


# A new keys file


def test_a_key_that_stays_keeps_what_it_used_and_what_runs():
    alice, limiter = limited(Clock(), requests_per_s=1, burst=10, tokens_per_min=1000, concurrent=1)
    with limiter.admit(alice, 250) as lease:
        same = lease.headers
        limiter.adopt([alice, key("bob")])
        assert lease.headers == same
        refused(limiter, alice)
        limiter.adopt([key(requests_per_s=1, burst=10, tokens_per_min=4000, concurrent=2)])
        assert lease.headers["x-ratelimit-remaining-requests"] == "9"
        assert lease.headers["x-ratelimit-remaining-tokens"] == "3000"
        use(limiter, alice)


def test_a_settlement_goes_where_the_charge_was_made():
    alice, limiter = limited(Clock(), tokens_per_min=1000)
    with limiter.admit(alice, 600) as lease:
        limiter.adopt([key()])
        assert lease.headers == {}
        limiter.adopt([alice])
        lease.settle(5000)
        assert lease.headers["x-ratelimit-remaining-tokens"] == "1000"


def test_a_withdrawn_key_is_turned_away_and_forgotten():
    alice, limiter = limited(Clock(), concurrent=1)
    with limiter.admit(alice, 1):
        limiter.adopt([])
        assert limiter._accounts == {}
        with pytest.raises(Unauthorized, match="withdrawn"):
            use(limiter, alice)
        limiter.adopt([alice])
        with limiter.admit(alice, 1):
            pass
    use(limiter, alice)


def test_memory_is_one_account_per_key_of_the_file():
    limiter = Limiter([], Clock())
    for generation in range(50):
        limiter.adopt([key(f"k{generation}-{n}", requests_per_s=1) for n in range(3)])
        assert len(limiter._accounts) == 3


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (59_999, "59.999s"),
        (360_000, "6m0s"),
        (3_600_000, "1h0m0s"),
        (3_661_500, "1h1m1.5s"),
    ],
)
def test_times_are_written_as_openai_writes_them(duration_ms, words):
    clock = Clock()
    alice, limiter = limited(clock, requests_per_s=0.001, burst=4)
    for _ in range(4):
        use(limiter, alice)
    clock.now_ns += (4_000_000 - duration_ms) * MS_NS
    assert limiter._accounts["alice"].headers(clock.now_ns)["x-ratelimit-reset-requests"] == words
