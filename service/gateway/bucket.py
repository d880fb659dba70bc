"""A token bucket: pure arithmetic over a clock that the caller reads.

Owns one level that refills. Refuses to own clocks, errors and what a token is. Times are whole nanoseconds and the
level is counted in parts, so small that whole ones refill in a nanosecond. So nothing is ever rounded: after exactly
`wait_ns` there is enough, and one nanosecond earlier there is not.
"""

from fractions import Fraction


class Bucket:
    """Holds at most `capacity`, refills evenly, and can be in debt. Begins full."""

    def __init__(self, capacity: int, rate_per_s: Fraction, now_ns: int) -> None:
        self._set(capacity, rate_per_s)
        self._level_parts = capacity * self._parts
        self._at_ns = now_ns

    def _set(self, capacity: int, rate_per_s: Fraction) -> None:
        self.capacity, self._rate_per_s = capacity, rate_per_s
        self._parts_per_ns, self._parts = (rate_per_s / 10**9).as_integer_ratio()

    def level(self, now_ns: int) -> int:
        """What it holds now, in whole tokens; negative in debt."""
        return self._refill(now_ns) // self._parts

    def _refill(self, now_ns: int) -> int:
        elapsed_ns = max(0, now_ns - self._at_ns)
        self._at_ns += elapsed_ns
        self._level_parts = min(self.capacity * self._parts, self._level_parts + elapsed_ns * self._parts_per_ns)
        return self._level_parts

    def wait_ns(self, amount: int, now_ns: int) -> int:
        """How long until it holds this much, if nobody takes any; 0 when it does."""
        assert amount <= self.capacity, "it will never hold this much"
        missing_parts = amount * self._parts - self._refill(now_ns)
        return max(0, -(-missing_parts // self._parts_per_ns))

    def take(self, amount: int, now_ns: int) -> None:
        """Take this much, into debt if need be; a negative amount is given back."""
        self._level_parts = self._refill(now_ns) - amount * self._parts

    def resize(self, capacity: int, rate_per_s: Fraction, now_ns: int) -> None:
        """Other limits from now on. What it holds keeps its share of the capacity; debt stays what it is."""
        if (capacity, rate_per_s) == (self.capacity, self._rate_per_s):
            return
        level_parts, share = self._refill(now_ns), Fraction(capacity, self.capacity)
        level = level_parts * (share if level_parts > 0 else 1) // self._parts
        self._set(capacity, rate_per_s)
        self._level_parts = level * self._parts
