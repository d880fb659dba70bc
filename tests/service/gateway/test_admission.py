"""Never too many run at once, nobody waits beside a free slot, no slot is lost, and a crowd delays only itself."""

import asyncio
import gc
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.admission import RATE_WINDOW_S, RETRY_AFTER_LIMIT_S, Admission, Slot, Ticket
from service.gateway.errors import ClientGone, Overloaded
from service.gateway.lifeline import Lifeline

LONG_S = 600


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Visit:
    """A request: asks at the next step of the loop, once let in stays until it may leave."""

    def __init__(self, crowd, ticket):
        self.ticket, self.slot, self.leave = ticket, crowd.admission.slot(ticket), asyncio.Event()
        self.outcome, self.refusal = "waiting", None
        self.task = asyncio.create_task(self._run(crowd))
        self.task.add_done_callback(self._end)

    async def _run(self, crowd):
        try:
            async with self.slot:
                self.outcome = "inside"
                crowd.served.append(self.ticket)
                await self.leave.wait()
            self.outcome = "served"
        except Overloaded as refusal:
            self.outcome, self.refusal = refusal.code, refusal

    def _end(self, task):
        if task.cancelled():
            self.outcome = "cancelled"

    @property
    def inside(self):
        return self.outcome == "inside" and not self.task.done()


class Crowd:
    """Requests before an admission, in order of being served."""

    def __init__(self, *, capacity=1, queue_limit=10_000, tenant_queue_limit=None):
        self.clock, self.served, self.visits = Clock(), [], []
        self.admission = Admission(
            capacity=capacity, queue_limit=queue_limit, tenant_queue_limit=tenant_queue_limit, clock=self.clock
        )

    def ask(self, tenant="a", priority=0, wait_s=LONG_S, cost=1.0):
        self.visits.append(Visit(self, Ticket(tenant, priority, wait_s, cost)))
        return self.visits[-1]

    async def ask_now(self, *args, **kwargs):
        visit = self.ask(*args, **kwargs)
        await settled()
        return visit

    async def next(self):
        """The longest inside leaves, somebody else may come in."""
        next(visit for visit in self.visits if visit.inside).leave.set()
        await settled()

    async def dissolve(self):
        """Everybody leaves as soon as they were in; the order in which they were."""
        already = len(self.served)
        for visit in self.visits:
            visit.leave.set()
        await asyncio.gather(*(visit.task for visit in self.visits), return_exceptions=True)
        assert (self.admission.running, self.admission.waiting) == (0, 0)
        return self.served[already:]


async def settled():
    """Until every task has gone as far as it gets without time."""
    for _ in range(6):
        await asyncio.sleep(0)


def tenants(tickets):
    return "".join(ticket.tenant for ticket in tickets)


def run(scenario):
    return asyncio.run(scenario())


# Slots


def test_a_free_slot_is_taken_without_a_step_of_the_loop():
    async def scenario():
        admission = Admission(capacity=1, queue_limit=0)
        entering = admission.slot(Ticket("a", 0, LONG_S)).__aenter__()
        with pytest.raises(StopIteration) as entered:
            entering.send(None)
        assert entered.value.value.waited_s == 0
        assert admission.running == 1

    run(scenario)


def test_no_more_run_than_fit_and_the_rest_wait_their_turn():
    async def scenario():
        crowd = Crowd(capacity=2)
        visits = [crowd.ask() for _ in range(5)]
        await settled()
        assert [visit.outcome for visit in visits] == ["inside"] * 2 + ["waiting"] * 3
        assert (crowd.admission.running, crowd.admission.waiting) == (2, 3)
        visits[1].leave.set()
        await settled()
        assert [visit.outcome for visit in visits] == ["inside", "served", "inside", "waiting", "waiting"]
        await crowd.dissolve()

    run(scenario)


def test_a_request_that_fails_gives_its_slot_back():
    async def scenario():
        admission = Admission(capacity=1, queue_limit=0)
        for _ in range(2):
            with pytest.raises(KeyError):
                async with admission.slot(Ticket("a", 0, LONG_S)):
                    raise KeyError
        assert admission.running == 0

    run(scenario)


def test_the_time_in_the_queue_is_known_whether_served_or_not():
    async def scenario():
        crowd = Crowd(queue_limit=2)
        first = await crowd.ask_now()
        served, displaced = crowd.ask(), crowd.ask()
        await settled()
        crowd.clock.now += 3
        await crowd.ask_now(priority=1)
        crowd.clock.now += 4
        await crowd.dissolve()
        assert displaced.outcome == "displaced"
        assert [visit.slot.waited_s for visit in (first, displaced, served)] == [0, 3, 7]

    run(scenario)


def test_growing_wakes_those_who_wait_and_shrinking_ends_nobody():
    async def scenario():
        crowd = Crowd(capacity=0)
        visits = [crowd.ask() for _ in range(4)]
        await settled()
        assert crowd.admission.waiting == 4
        crowd.admission.resize(3)
        await settled()
        assert [visit.outcome for visit in visits] == ["inside"] * 3 + ["waiting"]
        crowd.admission.resize(1)
        for visit, running in zip(visits[:3], [2, 1, 1], strict=True):
            visit.leave.set()
            await settled()
            assert crowd.admission.running == running
        assert visits[3].outcome == "inside"
        await crowd.dissolve()

    run(scenario)


# Order


def test_one_tenants_crowd_does_not_delay_anothers_first_request():
    async def scenario():
        crowd = Crowd()
        for _ in range(101):
            crowd.ask("a")
        await settled()
        crowd.ask("b")
        await settled()
        assert "b" in tenants(await crowd.dissolve())[:2]

    run(scenario)


def test_nor_does_a_crowd_that_has_been_served_for_long():
    async def scenario():
        crowd = Crowd()
        for _ in range(100):
            await crowd.ask_now("a")
        for _ in range(50):
            await crowd.next()
        await crowd.ask_now("b")
        assert "b" in tenants(await crowd.dissolve())[:2]

    run(scenario)


def test_a_newcomer_has_no_credit_for_idling():
    async def scenario():
        crowd = Crowd()
        for _ in range(60):
            await crowd.ask_now("a")
        for _ in range(30):
            await crowd.next()
        for _ in range(20):
            crowd.ask("b")
        await settled()
        order = tenants(await crowd.dissolve())
        assert all(abs(order[:end].count("a") - order[:end].count("b")) <= 1 for end in range(40))

    run(scenario)


def test_a_tenant_that_waits_one_at_a_time_has_no_advantage_by_it():
    async def scenario():
        crowd = Crowd()
        for tenant in "acc":
            crowd.ask(tenant, cost=3.0 if tenant == "a" else 1.0)
        await settled()
        order = []
        for _ in range(40):  # whoever leaves comes back: c always waits, a only sometimes
            inside = crowd.served[-1]
            await crowd.ask_now(inside.tenant, cost=inside.cost)
            await crowd.next()
            order.append(crowd.served[-1].tenant)
        assert 9 <= order.count("a") <= 11
        await crowd.dissolve()

    run(scenario)


def test_a_tenants_own_requests_are_served_in_order():
    async def scenario():
        crowd = Crowd()
        for number in range(30):
            crowd.ask("ab"[number % 2], cost=1.0 + number / 100)
        await settled()
        served = [*crowd.served, *await crowd.dissolve()]
        for tenant in "ab":
            costs = [ticket.cost for ticket in served if ticket.tenant == tenant]
            assert costs == sorted(costs)

    run(scenario)


COSTS = st.lists(st.floats(0.1, 10), min_size=12, max_size=12)


@settings(deadline=None)
@given(st.lists(COSTS, min_size=2, max_size=4))
def test_tenants_who_all_wait_get_equal_work_up_to_one_request_each(costs):
    """Goyal, Vin and Cheng (1996), theorem 1: work differs by at most the dearest request of each of the two."""

    async def scenario():
        crowd = Crowd(capacity=0)
        for tenant, its_costs in enumerate(costs):
            for cost in its_costs:
                crowd.ask(str(tenant), cost=cost)
        await settled()
        crowd.admission.resize(1)
        remaining = Counter({str(tenant): len(its_costs) for tenant, its_costs in enumerate(costs)})
        work = dict.fromkeys(remaining, 0.0)
        for ticket in await crowd.dissolve():
            work[ticket.tenant] += ticket.cost
            remaining[ticket.tenant] -= 1
            if not remaining[ticket.tenant]:  # from here on not everybody waits
                break
            dearest = sorted(max(its_costs) for its_costs in costs)[-2:]
            assert max(work.values()) - min(work.values()) <= sum(dearest) + 1e-9

    run(scenario)


def test_shares_are_by_cost():
    async def scenario():
        crowd = Crowd()
        for _ in range(100):
            crowd.ask("a", cost=3.0)
            crowd.ask("b", cost=1.0)
        await settled()
        first = tenants(await crowd.dissolve())[:80]
        assert abs(first.count("a") - 20) <= 1

    run(scenario)


def test_who_was_cancelled_is_not_charged():
    async def scenario():
        crowd = Crowd()
        inside = await crowd.ask_now("a")
        gone = [crowd.ask("a", cost=100.0) for _ in range(50)]
        crowd.ask("a")
        for _ in range(5):
            crowd.ask("b")
        await settled()
        inside.leave.set()  # the next is chosen after the cancellations, before those tasks know of them
        for visit in gone:
            visit.task.cancel()
        assert "a" in tenants(await crowd.dissolve())[:2]

    run(scenario)


def test_higher_priorities_come_first_whatever_their_tenant_had():
    async def scenario():
        crowd = Crowd()
        await crowd.ask_now()
        for priority in (0, -1, 1, 0, 1, -1):
            for tenant in "aab":
                crowd.ask(tenant, priority)
        await settled()
        order = [ticket.priority for ticket in await crowd.dissolve()]
        assert order == [1] * 6 + [0] * 6 + [-1] * 6

    run(scenario)


# Refusals


def test_a_full_queue_turns_away_at_once():
    async def scenario():
        crowd = Crowd(queue_limit=2)
        visits = [crowd.ask(tenant) for tenant in "abcd"]
        await settled()
        assert [visit.outcome for visit in visits] == ["inside", "waiting", "waiting", "queue_full"]
        assert visits[3].refusal.status == 429
        assert visits[3].slot.waited_s == 0
        await crowd.dissolve()

    run(scenario)


def test_a_tenants_share_of_the_queue_may_be_full_before_the_queue_is():
    async def scenario():
        crowd = Crowd(queue_limit=3, tenant_queue_limit=1)
        visits = [crowd.ask(tenant) for tenant in "aaabcd"]
        await settled()
        outcomes = [visit.outcome for visit in visits]
        assert outcomes == ["inside", "waiting", "tenant_queue_full", "waiting", "waiting", "queue_full"]
        await crowd.dissolve()

    run(scenario)


def test_a_higher_priority_takes_the_place_of_the_newest_of_the_lowest():
    async def scenario():
        crowd = Crowd(queue_limit=4)
        await crowd.ask_now()
        normal, old, low, high = (crowd.ask("a", priority) for priority in (0, -1, -1, 1))
        await settled()
        for outcomes in (
            ["waiting", "waiting", "displaced", "waiting"],
            ["waiting", "displaced", "displaced", "waiting"],
            ["displaced", "displaced", "displaced", "waiting"],
        ):
            assert (await crowd.ask_now("b", 1)).outcome == "waiting"
            assert [visit.outcome for visit in (normal, old, low, high)] == outcomes
        assert (await crowd.ask_now("b", 1)).outcome == "queue_full"
        assert crowd.admission.waiting == 4
        await crowd.dissolve()

    run(scenario)


def test_within_its_own_share_a_tenant_displaces_only_itself():
    async def scenario():
        crowd = Crowd(queue_limit=3, tenant_queue_limit=1)
        await crowd.ask_now()
        other, own = await crowd.ask_now("b", -1), await crowd.ask_now("a", 0)
        assert (await crowd.ask_now("a", 1)).outcome == "waiting"
        assert (other.outcome, own.outcome) == ("waiting", "displaced")
        await crowd.dissolve()

    run(scenario)


def test_who_waits_too_long_is_turned_away_and_leaves_nothing_behind():
    async def scenario():
        crowd = Crowd(queue_limit=1)
        await crowd.ask_now()
        late = crowd.ask(wait_s=0.01)
        await late.task
        assert late.outcome == "queue_timeout"
        assert late.refusal.retry_after_s == 1
        assert crowd.admission.waiting == 0
        assert (await crowd.ask_now()).outcome == "waiting"
        await crowd.dissolve()

    run(scenario)


def test_a_deadline_that_comes_in_the_step_of_the_grant_is_too_late():
    async def scenario():
        crowd = Crowd()
        first, second = await crowd.ask_now(), crowd.ask(wait_s=0)
        await asyncio.sleep(0)  # it waits
        crowd.admission.resize(2)
        await settled()
        assert second.outcome == "inside"
        assert first.outcome == "inside"
        await crowd.dissolve()

    run(scenario)


# Retry-After


async def drain(crowd, times, every_s, *, others=1):
    """So many leave, one every so often, while others wait."""
    for _ in range(times):
        while crowd.admission.waiting < others:
            await crowd.ask_now()
        crowd.clock.now += every_s
        await crowd.next()


async def refused(crowd, *args):
    """What somebody who finds the queue full is told."""
    while (visit := await crowd.ask_now(*args)).refusal is None:
        pass
    return visit.refusal.retry_after_s


@pytest.mark.parametrize("every_s", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("waiting", [5, 20])
def test_retry_after_is_when_those_ahead_will_be_gone(every_s, waiting):
    async def scenario():
        crowd = Crowd(queue_limit=waiting)
        await drain(crowd, 100, every_s)
        assert await refused(crowd) == pytest.approx(max(1, math.ceil(waiting * every_s)), abs=2)
        await crowd.dissolve()

    run(scenario)


def test_retry_after_counts_only_those_who_are_ahead():
    async def scenario():
        crowd = Crowd(queue_limit=40, tenant_queue_limit=10)
        await drain(crowd, 50, 1.0)
        for tenant in "bcd":
            await refused(crowd, tenant)
        assert 8 <= await refused(crowd, "e", 1) <= 10
        assert 35 <= await refused(crowd, "b") <= 40
        await crowd.dissolve()

    run(scenario)


def test_retry_after_is_a_second_while_nothing_is_known_and_bounded_when_nothing_moves():
    async def scenario():
        crowd = Crowd(queue_limit=10)
        assert await refused(crowd) == 1
        answers = []
        for _ in range(20):
            crowd.clock.now += 1
            answers.append(await refused(crowd))
        assert answers == sorted(answers)
        assert answers[0] > 1
        assert answers[-1] == RETRY_AFTER_LIMIT_S
        await crowd.dissolve()

    run(scenario)


def test_quiet_times_say_nothing_of_the_drain_rate():
    async def scenario():
        crowd = Crowd(queue_limit=10)
        await drain(crowd, 50, 0.5)
        before = await refused(crowd)
        await drain(crowd, 11, 0.5, others=0)
        assert crowd.admission.running == 0
        for _ in range(100):
            crowd.clock.now += 100
            (await crowd.ask_now()).leave.set()
            await settled()
        assert before == await refused(crowd) == 5
        await crowd.dissolve()

    run(scenario)


def test_the_drain_rate_follows_a_change():
    async def scenario():
        crowd = Crowd(queue_limit=10)
        await drain(crowd, 200, 0.1)
        assert await refused(crowd) == 1
        await crowd.dissolve()
        await drain(crowd, 60, 3.0)
        assert 25 <= await refused(crowd) <= 31
        await crowd.dissolve()

    run(scenario)


def test_who_leaves_a_shrunken_pool_lets_nobody_in_and_does_not_count():
    async def scenario():
        crowd = Crowd(capacity=5, queue_limit=10)
        for _ in range(15):
            await crowd.ask_now()
        crowd.admission.resize(0)
        for _ in range(5):
            crowd.clock.now += 1
            await crowd.next()
        assert 40 <= await refused(crowd) <= 50
        crowd.admission.resize(1)
        await crowd.dissolve()

    run(scenario)


@pytest.mark.parametrize("gone", [lambda crowd, _: crowd.admission.resize(1), lambda _, visit: visit.task.cancel()])
def test_a_wait_in_vain_is_remembered_however_it_ended(gone):
    async def scenario():
        crowd = Crowd(capacity=0, queue_limit=1)
        visit = await crowd.ask_now()
        crowd.clock.now += 20
        gone(crowd, visit)
        await settled()
        assert crowd.admission.waiting == 0
        crowd.clock.now += 1000
        assert 10 <= await refused(crowd) <= 20
        crowd.admission.resize(1)
        await crowd.dissolve()

    run(scenario)


def test_what_was_let_in_long_ago_is_no_worse_than_nothing():
    async def scenario():
        crowd = Crowd(queue_limit=1)
        await drain(crowd, 1, 1.0)
        await crowd.ask_now()
        crowd.clock.now += 20 * RATE_WINDOW_S
        assert await refused(crowd) == RATE_WINDOW_S
        await crowd.dissolve()

    run(scenario)


# Cancellation


def test_a_slot_granted_to_somebody_just_leaving_goes_to_the_next():
    async def scenario():
        crowd = Crowd()
        first, leaving, third = (crowd.ask() for _ in range(3))
        await settled()
        first.leave.set()
        await asyncio.sleep(0)  # the first leaves
        assert (leaving.slot.granted, leaving.inside) == (True, False)
        leaving.task.cancel()
        await settled()
        assert (leaving.outcome, third.outcome) == ("cancelled", "inside")
        assert crowd.served == [first.ticket, third.ticket]
        await crowd.dissolve()

    run(scenario)


def test_a_slot_is_not_granted_to_somebody_cancelled_in_the_same_step():
    async def scenario():
        crowd = Crowd(capacity=0)
        leaving, second = crowd.ask(), crowd.ask()
        await settled()
        leaving.task.cancel()
        crowd.admission.resize(1)
        assert (leaving.slot.granted, second.slot.granted) == (False, True)
        await settled()
        assert leaving.outcome == "cancelled"
        await crowd.dissolve()

    run(scenario)


@pytest.mark.parametrize("displaced_first", [True, False])
def test_somebody_displaced_and_cancelled_in_the_same_step_is_just_cancelled(displaced_first):
    async def scenario():
        crowd = Crowd(capacity=0, queue_limit=1)
        low = await crowd.ask_now(priority=-1)
        high = crowd.ask(priority=1)  # asks before the other's task can run
        if displaced_first:
            await asyncio.sleep(0)
        low.task.cancel()
        await settled()
        assert (low.outcome, high.outcome) == ("cancelled", "waiting")
        assert crowd.admission.waiting == 1
        crowd.admission.resize(1)
        await crowd.dissolve()

    run(scenario)


def test_a_lifeline_ends_the_wait_with_its_own_error():
    async def scenario():
        admission = Admission(capacity=0, queue_limit=1)
        lifeline, slot = Lifeline(), admission.slot(Ticket("a", 0, LONG_S))
        asyncio.get_running_loop().call_later(0.01, lifeline.end, ClientGone("gone"))
        with pytest.raises(ClientGone), lifeline:
            async with slot:
                pytest.fail("let in")
        assert (admission.running, admission.waiting) == (0, 0)

    run(scenario)


def test_those_who_left_do_not_pile_up():
    async def scenario():
        crowd = Crowd(capacity=0)
        stays = crowd.ask("stays")
        for number in range(5000):
            crowd.ask(str(number)).task.cancel()
            gone = await crowd.ask_now(str(number))
            gone.task.cancel()
            await settled()
            crowd.visits.clear()
        del gone
        gc.collect()
        slots = [thing for thing in gc.get_objects() if type(thing) is Slot and thing._admission is crowd.admission]
        assert slots == [stays.slot]
        queue = crowd.admission._queues[0]
        assert len(queue._tenants) == len(queue._tags) < 2000
        crowd.admission.resize(1)
        await settled()
        assert stays.outcome == "inside"
        crowd.visits.append(stays)
        await crowd.dissolve()

    run(scenario)


# Everything at once

OPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from("abc"),
            st.integers(-1, 1),
            st.sampled_from([0, LONG_S, LONG_S, LONG_S]),
            st.sampled_from([0.5, 1.0, 7.0]),
        ),
        st.tuples(st.sampled_from(["leave", "cancel"]), st.integers(0, 40)),
        st.tuples(st.just("resize"), st.integers(0, 4)),
        st.tuples(st.just("clock"), st.floats(0, 100)),
        st.tuples(st.just("step"), st.integers(1, 4)),
    ),
    max_size=60,
)


async def act(crowd, op, *args):
    visits = crowd.visits
    match op:
        case "ask":
            crowd.ask(*args)
        case "leave" if visits:
            visits[args[0] % len(visits)].leave.set()
        case "cancel" if visits:
            visits[args[0] % len(visits)].task.cancel()
        case "resize":
            crowd.admission.resize(*args)
        case "clock":
            crowd.clock.now += args[0]
        case "step":
            for _ in range(args[0]):
                await asyncio.sleep(0)


@settings(deadline=None, max_examples=300)
@given(OPS)
def test_whatever_happens_no_slot_is_lost_and_nobody_waits_beside_a_free_one(ops):
    async def scenario():
        crowd = Crowd(capacity=2, queue_limit=5, tenant_queue_limit=3)
        admission, running = crowd.admission, 0
        for op in [*ops, ("step", 6)]:
            await act(crowd, *op)
            assert 0 <= admission.running <= max(admission.capacity, running)  # over it only by shrinking
            assert admission.running >= admission.capacity or admission.waiting == 0
            assert admission.waiting <= 5
            assert sum(visit.inside for visit in crowd.visits) <= admission.running
            running = admission.running
        outcomes = Counter(visit.outcome for visit in crowd.visits)
        assert outcomes["inside"] == admission.running
        assert outcomes["waiting"] == admission.waiting
        admission.resize(1)
        await crowd.dissolve()
        left = {visit.outcome for visit in crowd.visits}
        assert left <= {"served", "cancelled", "queue_full", "tenant_queue_full", "queue_timeout", "displaced"}
        assert not admission._queues
        assert (await crowd.ask_now()).outcome == "inside"
        await crowd.dissolve()

    run(scenario)
