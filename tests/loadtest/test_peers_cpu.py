"""The table of peers, from rounds as they were measured."""

import asyncio
from types import SimpleNamespace

from scripts.peers_cpu import figures, table


def rounds(name, *tokens_per_s):
    return SimpleNamespace(side=SimpleNamespace(name=name), tokens_per_s=list(tokens_per_s))


async def measured():
    yield 1, [rounds("ours", 50.0, 60.0, 40.0), rounds("server", 25.0, 20.0, 40.0)]
    yield 1, [rounds("ours", 45.0, 45.0), rounds("slow", 15.0, 9.0)]
    yield 8, [rounds("ours", 100.0, 120.0, 110.0), rounds("server", 200.0, 120.0, 220.0)]


def test_a_peer_is_compared_with_ours_round_by_round_of_the_same_turns():
    told = asyncio.run(figures(measured()))
    assert (told["server"][1].ours_over_it, told["server"][1].low, told["server"][1].high) == (2.0, 1.0, 3.0)
    assert told["slow"][1].ours_over_it == 4.0
    assert told["ours"][1].tokens_per_s == 50.0


def test_a_peer_that_does_not_batch_has_no_figure_there():
    told = asyncio.run(figures(measured()))
    lines = table(told, dict.fromkeys(told, "1.0")).splitlines()
    assert lines[-1] == "| slow | 12.0 | 4.00 (3.00 to 5.00) | - | - | 1.0 |"
    assert "| server | 25.0 | 2.00 (1.00 to 3.00) | 200.0 | 0.50 (0.50 to 1.00) | 1.0 |" in lines
