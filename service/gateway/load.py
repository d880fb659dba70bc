"""How busy one replica is, as far as this gateway can know.

Owns the arithmetic of our own count and the runtime's reports. Refuses to own asking (replica.py), counting requests in
and out (pool.py) and choosing (balance.py).
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """Requests at a replica: ours, counted now; others', from its last report; and how many it runs at a time."""

    capacity: int
    ours: int = 0
    others: int = 0
    questions: int = 0
    """Ours that generate nothing (lookup.py): they take no place and are in no report."""

    @property
    def busy(self) -> int:
        """All of them."""
        return self.ours + self.others

    @property
    def idle(self) -> bool:
        """Whether nothing of ours is there."""
        return not self.ours and not self.questions

    def report(self, requests: int, capacity: int) -> None:
        """What the runtime says it runs and queues. What exceeds our own requests at this moment is others'.

        Our part is subtracted when the report arrives, not when it is used: between two reports our own count moves
        with every request, and adding it to a total that still holds the old one would count a request twice.
        """
        self.others = max(0, requests - self.ours)
        if capacity > 0:
            self.capacity = capacity

    def unreported(self) -> None:
        """The runtime said nothing: only our own requests are known."""
        self.others = 0
