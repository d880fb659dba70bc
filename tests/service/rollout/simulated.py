"""Two pools' traffic, drawn: bursts, drifts that take long to pass, and load that moves both."""

import math
import random
from dataclasses import dataclass

from service.rollout.estimate import Block, Counts
from service.rollout.evidence import Evidence
from service.rollout.situation import BLOCK_S, MAX_BLOCKS, Window

RATES = {"1": 50.0, "2": 90.0, "4": 150.0}
"""Tokens per second of the stable pool."""
PASSES = 100
"""Of a request."""


@dataclass(frozen=True)
class Traffic:
    """How good the canary is, by the stable pool; `drift` is how much of a pool's mood is left after five minutes."""

    speed: float = 1.0
    tau: float = 1.0
    errors: float = 0.001
    share: float = 0.05
    requests_per_s: float = 2.0
    drift: float = 0.8

    def blocks(self, count: int, seed: int) -> list[dict[str, Block]]:
        """Blocks of five minutes: each measure's, by name."""
        draw = random.Random(seed)
        mood = {"canary": 0.0, "stable": 0.0, "load": 0.0}
        found = []
        for _ in range(count):
            fresh = math.sqrt(1 - self.drift**2)
            mood = {name: self.drift * value + draw.gauss(0, 0.01) * fresh for name, value in mood.items()}
            pools = [self._pool(draw, mood["canary"] + 10 * mood["load"], canary=True)]
            pools += [self._pool(draw, mood["stable"] + 10 * mood["load"], canary=False)]
            found.append({name: _joined(*(pool[name] for pool in pools)) for name in pools[0]})
        return found

    def _pool(self, draw: random.Random, mood: float, *, canary: bool) -> dict[str, dict[str, tuple[float, float]]]:
        """Events and exposure by stratum, of each measure."""
        share = self.share if canary else 1 - self.share
        requests = max(1.0, round(draw.gauss(share * BLOCK_S * self.requests_per_s, math.sqrt(share * BLOCK_S))))
        noise = draw.gauss(0, 0.25 / math.sqrt(requests))
        speed, tau = (self.speed, self.tau) if canary else (1.0, 1.0)
        seconds = {size: requests * draw.uniform(0.1, 1.1) for size in RATES}
        failed = sum(draw.random() < (self.errors if canary else 0.001) for _ in range(int(requests)))
        passes = requests * PASSES
        return {
            "speed": {
                size: (seconds[size] * its * speed * (1 + mood + noise), seconds[size]) for size, its in RATES.items()
            },
            "acceptance": {"": (passes * 2.6 * tau * (1 + mood / 10 + noise), passes)},
            "first_token": {"": (requests * draw.gauss(0.3, 0.01), requests)},
            "errors": {"": (failed, requests)},
        }


def _joined(canary: dict[str, tuple[float, float]], stable: dict[str, tuple[float, float]]) -> Block:
    return {name: Counts(*canary[name], *stable[name]) for name in canary}


def merged(blocks: list[Block]) -> Block:
    """One block that is as long as all of these."""
    totals: dict[str, Counts] = {}
    for block in blocks:
        for name, counts in block.items():
            before = totals.get(name, Counts(0, 0, 0, 0))
            totals[name] = Counts(*(one + other for one, other in zip(before, counts, strict=True)))
    return totals


def evidence(blocks: list[dict[str, Block]]) -> Evidence:
    """As Prometheus would have been asked for it: few long blocks of a long time."""
    size = -(-len(blocks) // MAX_BLOCKS)
    parts = [blocks[start : start + size] for start in range(0, len(blocks), size)]
    named = {name: [merged([block[name] for block in part]) for part in parts] for name in blocks[0]}
    errors = [block[""] for block in named.pop("errors")]
    return Evidence(**named, output_token=[], errors=errors, mismatches=[], speedups={})


def window(look: int) -> Window:
    """The window of a look, half an hour each."""
    return Window(0, look * 6 * BLOCK_S, min(MAX_BLOCKS, look * 6), look)
