"""Who may run now, who waits and in what order, who is turned away: bounded concurrency with a bounded, fair queue.

Owns the count of running requests, the queue before them and what a refused request is told. Refuses to own which
runtime serves a request, what a tenant may do and what is recorded: `Slot.waited_s` and an error's code are for that.

Strict between priorities; inside one, start-time fair queueing between tenants (Goyal, Vin and Cheng, 1996): a request
waits for its tenant's share, not behind everybody's backlog. Single event loop: whoever frees a slot hands it on in
the same step, so nobody waits while a slot is free, and a request that meets a free slot need not look at the queue.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import NamedTuple, Self

from service.gateway.errors import RETRY_AFTER_S, Overloaded

RETRY_AFTER_LIMIT_S = 60
RATE_WINDOW_S = 30.0
"""How far back the drain rate remembers."""

_IDLE_TENANTS = 1000
_REFUSALS = {
    "queue_full": "Too many requests are waiting.",
    "tenant_queue_full": "Too many requests of this key are waiting.",
    "queue_timeout": "No capacity came free in time.",
    "displaced": "Requests of higher priority have taken this request's place in the queue.",
}


class Ticket(NamedTuple):
    """Who asks for a slot, and how: higher priorities first; `cost` > 0 is what being served counts against the tenant.

    Priorities are few. A tenant of twice the weight is one whose costs are halved.
    """

    tenant: str
    priority: int
    wait_s: float
    cost: float = 1.0


class Slot:
    """One request's place: a context, entered at once or after waiting, once; left when the request is over.

    `waited_s` is how long it queued, however that ended.
    """

    __slots__ = ("_admission", "granted", "outcome", "ticket", "waited_s")

    outcome: asyncio.Future[Overloaded | None]  # of waiting, if it comes to that

    def __init__(self, admission: "Admission", ticket: Ticket) -> None:
        self.ticket = ticket
        self.waited_s = 0.0
        self.granted = False
        self._admission = admission

    async def __aenter__(self) -> Self:
        """Wait for the turn.

        Raises:
            Overloaded: the queue is full (`queue_full`, `tenant_queue_full`), the wait was too long (`queue_timeout`),
                or somebody of higher priority needed the place (`displaced`).
        """
        if not self._admission._take():
            await self._admission._wait(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._admission._release()


class Admission:
    """At most `capacity` requests run and `queue_limit` wait, of which `tenant_queue_limit` of one tenant."""

    def __init__(
        self,
        *,
        capacity: int,
        queue_limit: int,
        tenant_queue_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.running = 0
        self.limit(queue_limit, tenant_queue_limit)
        self._clock = clock
        self._queues: dict[int, _FairQueue] = {}  # by priority; kept until a slot stays free
        self._drain_rate = _DrainRate()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(queue) for queue in self._queues.values())

    def slot(self, ticket: Ticket) -> Slot:
        """A place for this request: `async with admission.slot(ticket) as slot`."""
        return Slot(self, ticket)

    def limit(self, queue_limit: int, tenant_queue_limit: int | None) -> None:
        """From now on so many may wait; who waits already stays."""
        self._queue_limit = queue_limit
        self._tenant_queue_limit = math.inf if tenant_queue_limit is None else tenant_queue_limit

    def resize(self, capacity: int) -> None:
        """Runtimes came or went. What runs goes on; what waits moves up."""
        self.capacity = capacity
        if self._queues:
            self._pass_time()
            self._drain_rate.add(self._let_in())

    def _take(self) -> bool:
        """A free slot, if there is one: then nobody waits."""
        if self.running >= self.capacity:
            return False
        self.running += 1
        return True

    def _release(self) -> None:
        """A running request is over: its slot goes to the next."""
        self.running -= 1
        if self._queues:
            self._pass_time()
            self._drain_rate.add(self._let_in())

    async def _wait(self, slot: Slot) -> None:
        """Queue until the slot is granted, or raise."""
        loop = asyncio.get_running_loop()
        began = self._pass_time()
        self._make_room(slot.ticket)
        slot.outcome = loop.create_future()
        self._queues.setdefault(slot.ticket.priority, _FairQueue()).add(slot)
        timer = loop.call_later(slot.ticket.wait_s, self._turn_away, slot, "queue_timeout")
        try:
            refusal = await slot.outcome
        except BaseException:  # the client is gone, perhaps after the grant and before this task ran again
            self._release() if slot.granted else self._leave(slot)
            raise
        finally:
            timer.cancel()
            slot.waited_s = self._clock() - began
        if refusal is not None:
            raise refusal

    def _let_in(self) -> int:
        """Grant what is free to those whose turn it is; how many that were."""
        granted = 0
        while self.running < self.capacity and self.waiting:
            queue = self._queues[max(priority for priority, queue in self._queues.items() if len(queue))]
            slot = queue.head()
            if slot.outcome.done():  # cancelled in this very step of the loop: its tenant owes nothing
                queue.discard(slot)
                continue
            queue.serve(slot)
            slot.granted = True
            slot.outcome.set_result(None)
            self.running += 1
            granted += 1
        if self.running < self.capacity:
            self._queues.clear()  # nobody waits for anybody any more: old debts are over
        return granted

    def _make_room(self, ticket: Ticket) -> None:
        """A place in the queue: a free one, or that of the newest of the lowest priority if it is below this one's."""
        of_tenant = sum(queue.waiting_of(ticket.tenant) for queue in self._queues.values())
        if of_tenant >= self._tenant_queue_limit:
            last, code = self._last(ticket.tenant), "tenant_queue_full"
        elif self.waiting >= self._queue_limit:
            last, code = self._last(), "queue_full"
        else:
            return
        if last is None or last.ticket.priority >= ticket.priority:
            raise self._refusal(ticket, code)
        self._turn_away(last, "displaced")

    def _last(self, tenant: str | None = None) -> Slot | None:
        newest = (self._queues[priority].newest(tenant) for priority in sorted(self._queues))
        return next((slot for slot in newest if slot is not None), None)

    def _turn_away(self, slot: Slot, code: str) -> None:
        self._leave(slot)
        if not slot.outcome.done():
            slot.outcome.set_result(self._refusal(slot.ticket, code))

    def _leave(self, slot: Slot) -> None:
        self._pass_time()
        if queue := self._queues.get(slot.ticket.priority):
            queue.discard(slot)

    def _refusal(self, ticket: Ticket, code: str) -> Overloaded:
        ahead = sum(len(queue) for priority, queue in self._queues.items() if priority >= ticket.priority)
        return Overloaded(_REFUSALS[code], code=code, retry_after_s=self._drain_rate.retry_after_s(ahead))

    def _pass_time(self) -> float:
        """To be called before the queue changes: the drain rate needs to know since when somebody waits."""
        now = self._clock()
        self._drain_rate.pass_time(now, draining=self.waiting > 0)
        return now


class _FairQueue:
    """The waiting requests of one priority. A tenant's next request is tagged with the virtual time it starts at.

    The smallest tag is served first, and its tenant's next tag is later by the cost. Virtual time is the last tag
    served; a tenant that comes anew starts there. An idle tenant is forgotten once virtual time has reached its tag.
    """

    def __init__(self) -> None:
        self._virtual_time = 0.0
        self._arrivals: OrderedDict[Slot, None] = OrderedDict()
        self._tenants: dict[str, OrderedDict[Slot, None]] = {}
        self._tags: list[tuple[float, int, str]] = []  # a heap with one (tag, tie-breaker, tenant) for each of _tenants
        self._ties = count()

    def __len__(self) -> int:
        return len(self._arrivals)

    def waiting_of(self, tenant: str) -> int:
        return len(self._tenants.get(tenant, ()))

    def newest(self, tenant: str | None = None) -> Slot | None:
        slots = self._arrivals if tenant is None else self._tenants.get(tenant)
        return next(reversed(slots)) if slots else None

    def add(self, slot: Slot) -> None:
        tenant = slot.ticket.tenant
        assert slot.ticket.cost > 0, "who costs nothing is always next"
        if tenant not in self._tenants:
            self._tenants[tenant] = OrderedDict()
            heappush(self._tags, (self._virtual_time, next(self._ties), tenant))
        self._tenants[tenant][slot] = self._arrivals[slot] = None

    def discard(self, slot: Slot) -> None:
        """Take it out unserved, if it is here."""
        if slot in self._arrivals:
            del self._arrivals[slot], self._tenants[slot.ticket.tenant][slot]
            if len(self._tags) > 2 * len(self) + _IDLE_TENANTS:
                self._forget_idle()

    def head(self) -> Slot:
        """Whose turn it is, of at least one."""
        while not (slots := self._tenants[self._tags[0][2]]):
            del self._tenants[heappop(self._tags)[2]]
        return next(iter(slots))

    def serve(self, head: Slot) -> None:
        """Take the head out, at its tenant's expense."""
        self._virtual_time, _, tenant = self._tags[0]
        heapreplace(self._tags, (self._virtual_time + head.ticket.cost, next(self._ties), tenant))
        self.discard(head)

    def _forget_idle(self) -> None:
        self._tags = [entry for entry in self._tags if self._tenants[entry[2]]]
        self._tenants = {tenant: self._tenants[tenant] for _, _, tenant in self._tags}
        heapify(self._tags)


class _DrainRate:
    """How many waiting requests are let in per second, over the last `RATE_WINDOW_S` in which somebody waited.

    Both the count and the seconds fade exponentially. Quiet times do not count: they say nothing of the capacity.
    """

    def __init__(self) -> None:
        self._count = self._seconds = self._now = 0.0

    def pass_time(self, now: float, *, draining: bool) -> None:
        elapsed_s, self._now = now - self._now, now
        if draining:
            kept = math.exp(-elapsed_s / RATE_WINDOW_S)
            self._count *= kept
            self._seconds = self._seconds * kept + RATE_WINDOW_S * (1 - kept)

    def add(self, let_in: int) -> None:
        self._count += let_in

    def retry_after_s(self, ahead: int) -> int:
        """When so many will have been let in; while nobody was, as if somebody were now."""
        seconds = math.ceil(ahead * self._seconds / max(self._count, 1.0))
        return min(max(seconds, RETRY_AFTER_S), RETRY_AFTER_LIMIT_S)
