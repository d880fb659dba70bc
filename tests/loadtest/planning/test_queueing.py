"""The steady state on paper, and the simulation that checks it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.planning import geometry, hardware
from loadtest.planning.queueing import PLAIN, Decoding, Replica, Traffic, occupancy
from loadtest.planning.roofline import Machine
from loadtest.planning.simulation import simulate
from loadtest.tree import Tree

MACHINE = Machine(geometry.read("llama-3.1-8b"), hardware.read("h100"))
TRAFFIC = Traffic(10, 500, 250)
CHAIN = Decoding(Tree(3, 1, 4), 2.5)


def test_occupancy_of_one_server_is_the_textbooks():
    """M/M/1 at 60%: geometric; 0.9 wait on average (rho^2 / (1 - rho))."""
    running, waiting = occupancy([0.6])
    assert running == pytest.approx([0.4, 0.6])
    assert waiting == pytest.approx(0.9)


def test_occupancy_of_many_servers_is_the_textbooks():
    """M/M/infinity: Poisson."""
    running, waiting = occupancy([2 / servers for servers in range(1, 60)])
    assert running[:5] == pytest.approx([math.exp(-2) * 2**n / math.factorial(n) for n in range(5)])
    assert waiting == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0.01, 5), max_size=20), st.floats(0.01, 0.99))
def test_shares_of_time_add_up(loads, last):
    running, waiting = occupancy([*loads, last])
    assert sum(running) == pytest.approx(1)
    assert waiting >= 0


@pytest.mark.parametrize("decoding", [PLAIN, CHAIN])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.8])
def test_where_it_is_stable_the_simulation_agrees_with_the_paper(decoding, share):
    replica = Replica(MACHINE, decoding, TRAFFIC, 128)
    rate = share * replica.limit_per_s
    steady, outcome = replica.steady(rate), simulate(replica, rate, requests=4000)
    assert outcome.batch == pytest.approx(steady.batch, rel=0.06)
    assert outcome.tpot_s.mean == pytest.approx(steady.tpot_s, rel=0.04)
    assert outcome.ttft_s.mean == pytest.approx(steady.ttft_s, rel=0.05)


def test_the_batch_is_littles_law_of_the_simulated_times():
    replica = Replica(MACHINE, CHAIN, TRAFFIC, 128)
    outcome = simulate(replica, 10, requests=4000)
    assert outcome.batch == pytest.approx(10 * outcome.tpot_s.mean * 249, rel=0.03)


def test_beyond_its_limit_a_replica_has_no_steady_state_and_the_simulated_queue_grows():
    replica = Replica(MACHINE, PLAIN, TRAFFIC, 16)
    assert replica.steady(1.01 * replica.limit_per_s) is None
    waits = [simulate(replica, 1.3 * replica.limit_per_s, requests=count).ttft_s.mean for count in (300, 600, 1200)]
    assert waits[0] < waits[1] / 1.5 < waits[2] / 2.25


@given(st.floats(0.02, 0.9), st.floats(0.01, 0.09))
def test_more_traffic_is_never_faster(share, more):
    replica = Replica(MACHINE, CHAIN, TRAFFIC, 32)
    light, heavy = (replica.steady(part * replica.limit_per_s) for part in (share, share + more))
    assert light.batch < heavy.batch
    assert light.tpot_s <= heavy.tpot_s * (1 + 1e-9)
    assert light.ttft_s <= heavy.ttft_s * (1 + 1e-9)


def test_the_same_seed_is_the_same_simulation():
    replica = Replica(MACHINE, CHAIN, TRAFFIC, 64)
    assert simulate(replica, 8, requests=300, seed=3) == simulate(replica, 8, requests=300, seed=3)
    assert simulate(replica, 8, requests=300, seed=3) != simulate(replica, 8, requests=300, seed=4)
