"""A replica's time, shared among the requests in its batch: laws of the counters that speedup is read from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.batches import BATCH_SIZES, LABELS, BatchMeter, bucket
from service.gateway.load import Load
from service.gateway.metrics import Metrics


class Replica:
    """A meter and its load under a clock of the test's."""

    def __init__(self, capacity=256, others=0, baseline=None):
        self.now_s = 100.0
        self.metrics = Metrics()
        self.load = Load(capacity=capacity, others=others)
        self.meter = BatchMeter(self.metrics, "eagle", "h:1", self.load, clock=lambda: self.now_s)
        self.meter.baseline = baseline

    def enter(self):
        stay = self.meter.enter()
        self.load.ours += 1
        return stay

    def leave(self, stay, tokens=None):
        if tokens is not None:
            stay.generated(tokens)
        self.meter.settle()
        self.load.ours -= 1

    def counted(self, family):
        name = getattr(self.metrics, family)._name
        (found,) = (one for one in self.metrics.registry.collect() if one.name == name)
        return {sample.labels["batch_size"]: sample.value for sample in found.samples}

    @property
    def seconds(self):
        return self.counted("batch_seconds")

    @property
    def tokens(self):
        return self.counted("batch_tokens")


def test_batch_sizes_are_upper_bounds():
    assert [LABELS[bucket(size)] for size in (1, 2, 3, 4, 5, 256, 257)] == ["1", "2", "4", "4", "8", "256", "+Inf"]
    assert list(BATCH_SIZES) == sorted(BATCH_SIZES)


def test_one_request_alone_takes_all_of_the_time():
    replica = Replica()
    stay = replica.enter()
    replica.now_s += 2
    replica.leave(stay, tokens=60)
    assert replica.seconds == {"1": 2}
    assert replica.tokens == {"1": 60}


def test_a_steady_batch_adds_up_to_the_time_it_took():
    replica = Replica()
    stays = [replica.enter() for _ in range(8)]
    replica.now_s += 3
    for stay in stays:
        replica.leave(stay, tokens=30)
    assert replica.seconds == {"8": pytest.approx(3)}
    assert replica.tokens == {"8": 240}


def test_a_request_without_usage_spoils_neither_seconds_nor_tokens():
    replica = Replica()
    stays = [replica.enter() for _ in range(2)]
    replica.now_s += 4
    replica.leave(stays[0])
    replica.leave(stays[1], tokens=50)
    assert replica.seconds == {"2": 2}
    assert replica.tokens == {"2": 50}
    assert replica.tokens["2"] / replica.seconds["2"] == 100 / 4  # what two such requests generate


def test_two_gateways_before_one_replica_add_up():
    both = [Replica(others=1), Replica(others=1)]
    for replica in both:
        stay = replica.enter()
        replica.now_s += 5
        replica.leave(stay, tokens=100)
    assert sum(replica.seconds["2"] for replica in both) == 5
    assert sum(replica.tokens["2"] for replica in both) == 200


def test_what_exceeds_the_runtimes_own_limit_waits_there():
    replica = Replica(capacity=4)
    stays = [replica.enter() for _ in range(8)]
    replica.now_s += 8
    for stay in stays:
        replica.leave(stay, tokens=10)
    assert replica.seconds == {"4": 8}
    assert replica.tokens == {"4": 80}


def test_tokens_of_a_stream_go_by_the_chunks_that_arrived_at_each_batch_size():
    replica = Replica()
    stay = replica.enter()
    replica.now_s += 1
    stay.arrived(30)
    other = replica.enter()
    replica.now_s += 1
    stay.arrived(10)
    replica.leave(stay, tokens=80)
    replica.leave(other)
    assert replica.tokens == {"1": 60, "2": 20}
    assert replica.seconds == {"1": 1, "2": 0.5}


def test_tokens_of_a_whole_answer_go_by_time():
    replica = Replica()
    stay = replica.enter()
    replica.now_s += 3
    other = replica.enter()
    replica.now_s += 1
    replica.leave(stay, tokens=80)
    replica.leave(other)
    assert replica.tokens == {"1": 60, "2": 20}


def test_the_speedup_is_the_ratio_to_what_the_baseline_would_have_generated():
    replica = Replica(baseline=lambda batch_size: 20.0 * batch_size)
    stays = [replica.enter() for _ in range(2)]
    replica.now_s += 3
    for stay in stays:
        replica.leave(stay, tokens=90)
    assert replica.counted("batch_baseline_tokens") == {"2": 120}
    assert replica.counted("batch_calibrated_tokens") == {"2": 180}


def test_tokens_at_batch_sizes_that_were_not_measured_have_no_part_in_the_speedup():
    replica = Replica(baseline=lambda batch_size: 20.0 * batch_size if batch_size < 4 else None)
    stays = [replica.enter() for _ in range(3)]
    replica.now_s += 3
    fourth = replica.enter()
    replica.now_s += 4
    for stay in (*stays, fourth):
        replica.leave(stay, tokens=60)
    assert replica.counted("batch_baseline_tokens") == {"4": pytest.approx(3 * 60)}
    assert replica.tokens == {"4": 240}
    assert replica.counted("batch_calibrated_tokens") == {"4": pytest.approx(3 * 60 * 1 / (1 + 1))}


def test_without_a_calibration_nothing_is_said_of_a_baseline():
    replica = Replica()
    stay = replica.enter()
    replica.now_s += 3
    replica.leave(stay, tokens=90)
    assert replica.counted("batch_baseline_tokens") == {}


def test_idle_time_is_nobodys():
    replica = Replica(others=3)
    replica.now_s += 100
    replica.meter.settle()
    stay = replica.enter()
    replica.now_s += 1
    replica.leave(stay, tokens=1)
    assert replica.seconds == {"4": 0.25}


EVENTS = st.lists(st.tuples(st.sampled_from(["enter", "leave", "chunk", "report"]), st.floats(0, 5)), max_size=60)


@given(EVENTS)
def test_whatever_happens_no_second_and_no_token_is_lost_or_counted_twice(events):
    replica, running, busy_s, tokens = Replica(capacity=6), [], 0.0, 0
    for what, elapsed_s in [*events, *[("leave", 0.5)] * 60]:
        replica.now_s += elapsed_s
        busy_s += elapsed_s if running else 0
        if what == "enter":
            running.append(replica.enter())
        elif running and what == "leave":
            replica.leave(running.pop(0), tokens=12)
            tokens += 12
        elif running and what == "chunk":
            running[0].arrived(2)
        elif what == "report":  # nobody else is there: the same number again
            replica.meter.settle()
            replica.load.report(len(running), 6)
    assert sum(replica.seconds.values()) == pytest.approx(busy_s, abs=1e-6)
    # a stay of no time at all and without chunks has no batch size to be counted at
    assert sum(replica.tokens.values()) <= tokens + 1e-6
