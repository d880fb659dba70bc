"""Two workers on one real port: one gateway to its clients, its operators and its supervisor."""

import errno
import os
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.gateway import workers as workers_module
from service.gateway.board import Board, Shared, together
from service.gateway.errors import RateLimited
from service.gateway.keys import Key, Limits, mint
from service.gateway.limits import Limiter
from service.gateway.metrics import Metrics
from service.gateway.workers import CannotListen, Supervisor, listeners
from tests.service.gateway import scripted_upstream as wire
from tests.service.gateway.conftest import aerie, counter, key, samples, until
from tests.service.gateway.scripted_upstream import Hold, Release, Script
from tests.service.gateway.test_drain import Streaming, answers, free_port, process, refused
from tests.service.gateway.test_fleet import eagle, plain, written

CHAT = "/v1/chat/completions"
COUNTED = key("aerie_requests_total", {"route": CHAT, "outcome": "ok", "status": "2xx"})


@contextmanager
def two_workers(*arguments, **settings):
    """A gateway of two workers, both ready; its process and a client whose every request is a new connection."""
    quiet = {"log_level": "error"}  # nobody reads the log while a test asks hundreds of times
    with process(*arguments, workers=2, **quiet, **settings) as (running, client):
        client.headers["connection"] = "close"
        until(lambda: len(workers_of(running)) == 2)
        until(lambda: all(answers(client) for _ in range(16)), "the readiness of both")
        try:
            yield running, client
        finally:
            for told in (signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
                running.send_signal(told)
                with suppress(subprocess.TimeoutExpired):
                    running.wait(0.2)
            until(lambda: not boards(running), "the end of what they shared")


def boards(running):
    return list(Path("/dev/shm").glob(f"aerie-{running.pid}-*"))


def workers_of(running):
    try:
        return psutil.Process(running.pid).children()
    except psutil.NoSuchProcess:
        return []


def ask(client, chat, times=1):
    for _ in range(times):
        assert client.post(CHAT, json=chat).is_success


def connections(worker):
    with suppress(psutil.NoSuchProcess):
        return sum(found.status == psutil.CONN_ESTABLISHED for found in worker.net_connections())
    return 0


def test_connections_are_dealt_out_and_every_worker_tells_of_all(upstream, chat):
    with two_workers(upstream.url) as (running, client):
        assert boards(running), "or the end of every test here looks for nothing"
        idle = [connections(worker) for worker in workers_of(running)]
        with ExitStack() as stack:
            for _ in range(32):
                stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port)))
            until(lambda: sum(map(connections, workers_of(running))) >= sum(idle) + 32)
            assert all(map(connections, workers_of(running)))
        ask(client, chat, times=20)
        until(lambda: samples(client).get(COUNTED) == 20)
        for _ in range(8):  # whoever answers
            seen = samples(client)
            assert seen[COUNTED] == 20
            assert seen[key("aerie_completion_tokens_total", {"pool": "default"})] == 20 * 11
            assert seen[key("aerie_spec_acceptance_length_count", {"pool": "default"})] == 20
            assert seen[key("aerie_upstream_up", {"pool": "default", "replica": upstream.url[7:]})] == 1
            assert seen[key("aerie_request_duration_seconds_bucket", {"route": CHAT, "le": "+Inf"})] == 20


def test_what_runs_at_all_workers_is_added_up(upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url) as (_, client):
        streams = [Streaming(client.base_url, chat) for _ in range(8)]
        until(lambda: samples(client)[key("aerie_requests_in_flight", {})] == 8)
        release.now.set()
        for stream in streams:
            stream.join(20)
        until(lambda: samples(client)[key("aerie_requests_in_flight", {})] == 0)


def test_a_dead_worker_is_replaced_and_no_count_ever_falls(upstream, chat):
    with two_workers(upstream.url) as (running, client):
        ask(client, chat, times=10)
        until(lambda: samples(client).get(COUNTED) == 10)
        before = workers_of(running)
        for dead in before:
            dead.kill()
            until(lambda: dead not in workers_of(running) and len(workers_of(running)) == 2, "a successor")  # noqa: B023
            assert until(lambda: samples(client).get(COUNTED)) == 10
        ask(client, chat, times=10)
        until(lambda: samples(client).get(COUNTED) == 20)
        assert samples(client)[key("aerie_requests_in_flight", {})] == 0
        assert not set(before) & set(workers_of(running))


def test_connections_that_come_for_a_dead_worker_wait_for_its_successor(upstream, chat):
    with two_workers(upstream.url) as (running, client), ThreadPoolExecutor(16) as threads:
        running.send_signal(signal.SIGSTOP)  # so that it cannot start one
        dead = workers_of(running)[0]
        dead.kill()
        until(lambda: dead.status() == psutil.STATUS_ZOMBIE)
        asked = [threads.submit(ask, client, chat) for _ in range(16)]
        until(lambda: upstream.generated, "an answer by the other worker")
        running.send_signal(signal.SIGCONT)
        for one in asked:
            one.result(20)


def test_the_streams_of_the_other_worker_go_on(upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url) as (running, client):
        streams = [Streaming(client.base_url, chat) for _ in range(12)]
        assert all(stream.began.wait(20) for stream in streams)
        dead = workers_of(running)[0]
        dead.kill()
        until(lambda: not dead.is_running())
        release.now.set()
        for stream in streams:
            stream.join(20)
        assert any(stream.content.endswith(wire.DONE) for stream in streams)


def test_a_signal_drains_every_worker(upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url, drain_timeout_s=20) as (running, client):
        streams = [Streaming(client.base_url, chat) for _ in range(8)]
        assert all(stream.began.wait(20) for stream in streams)
        running.send_signal(signal.SIGTERM)
        until(lambda: refused(client), "the closed listeners")
        release.now.set()
        for stream in streams:
            stream.join(20)
            assert stream.content.endswith(wire.DONE)
        assert running.wait(20) == 0


def test_a_signal_to_the_whole_group_drains_as_one_does(upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url, drain_timeout_s=20) as (running, client):
        workers = workers_of(running)
        streams = [Streaming(client.base_url, chat) for _ in range(8)]
        assert all(stream.began.wait(20) for stream in streams)
        running.send_signal(signal.SIGTERM)
        until(lambda: refused(client), "the closed listeners")
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        release.now.set()
        for stream in streams:
            stream.join(20)
            assert stream.content.endswith(wire.DONE)
        assert running.wait(20) == 0


def test_the_notice_holds_for_every_worker(upstream):
    with two_workers(upstream.url, drain_notice_s=600) as (running, client):
        running.send_signal(signal.SIGTERM)
        until(lambda: all(client.get("/readyz").status_code == 503 for _ in range(8)))
        assert client.get("/healthz").is_success


def test_a_second_signal_ends_them_all_at_once(upstream, chat):
    upstream.script = Script(steps=[wire.chunk("a", "Red"), Hold()])
    with two_workers(upstream.url, drain_timeout_s=600) as (running, client):
        workers = workers_of(running)
        assert Streaming(client.base_url, chat).began.wait(20)
        running.send_signal(signal.SIGTERM)
        until(lambda: refused(client), "the closed listeners")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM
        assert not psutil.wait_procs(workers, timeout=20)[1]


def test_hangup_reloads_every_worker(tmp_path, runtimes):
    path = written(tmp_path, eagle(runtimes[0]))
    with two_workers(config=path) as (running, client):
        grew = counter(client)
        written(tmp_path, plain(runtimes[1]))
        running.send_signal(signal.SIGHUP)
        until(lambda: path.touch() or grew("aerie_config_generation") == 1)  # of the one that is behind


def test_workers_whose_supervisor_is_killed_drain_and_end(upstream, chat):
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url) as (running, client):
        workers = workers_of(running)
        stream = Streaming(client.base_url, chat)
        assert stream.began.wait(20)
        running.kill()
        until(lambda: refused(client), "the closed listeners")
        release.now.set()
        stream.join(20)
        assert stream.content.endswith(wire.DONE)
        assert not psutil.wait_procs(workers, timeout=20)[1]


@pytest.fixture
def supervised(monkeypatch, tmp_path):
    """Run one worker that ends this process's supervision the second time it begins; when its listener is closed."""
    first = tmp_path / "first"

    def work(index, sockets, life):
        if not first.exists():
            first.touch()
            raise SystemExit(1)
        sockets[0].accept()
        os.kill(os.getppid(), signal.SIGTERM)

    monkeypatch.setattr(workers_module, "PATIENCE_S", 0.1)
    [[listener]] = listeners("127.0.0.1", 0, 1)
    yield first, listener.getsockname(), Supervisor(work, [[listener]], lambda index: None, lambda: None)
    listener.close()


def connects(address):
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    return True


def watched(address):
    """From now to the connection that the worker is waiting for: whether one was refused."""
    return bool(until(lambda: not connects(address), "a refusal") and until(lambda: connects(address), "a successor"))


def test_no_connection_waits_for_a_successor_that_takes_long(supervised):
    first, address, supervisor = supervised
    with ThreadPoolExecutor(1) as threads:
        seen = threads.submit(lambda: until(first.exists) and watched(address))
        supervisor.run()
        assert seen.result(20)


def test_a_worker_that_cannot_be_started_is_started_later(supervised, monkeypatch):
    first, address, supervisor = supervised
    fork, failures = os.fork, [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")]

    def tight():
        if failures:
            raise failures.pop()
        return fork()

    first.touch()
    monkeypatch.setattr(workers_module.os, "fork", tight)
    monkeypatch.setattr(workers_module, "BACKOFF_LIMIT_S", 0.5)
    with ThreadPoolExecutor(1) as threads:
        seen = threads.submit(watched, address)
        supervisor.run()
        assert seen.result(20)


def test_workers_without_a_place_to_share_are_told_in_one_line(upstream, capsys, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "/dev/shm/aerie-1-x")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    assert aerie("gateway", "--upstream", upstream.url, "--port", str(free_port()), "--workers", "2") == 1
    told = "aerie: /dev/shm/aerie-1-x: workers have no place to share: No space left on device\n"
    assert capsys.readouterr().err == told


def test_a_port_that_is_taken_is_told_in_one_line(upstream, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert aerie("gateway", "--upstream", upstream.url, "--port", str(port), "--workers", "2") == 1
    assert capsys.readouterr().err == f"aerie: 127.0.0.1:{port}: Address already in use\n"


def test_two_gateways_do_not_share_a_port_by_accident():
    first = listeners("127.0.0.1", 0, 2)
    with ExitStack() as stack:
        for listener in (listener for worker in first for listener in worker):
            stack.enter_context(listener)
        ports = {listener.getsockname()[1] for worker in first for listener in worker}
        with pytest.raises(CannotListen, match="in use"):
            listeners("127.0.0.1", *ports, 2)


# Numbers of several workers


def numbers(requests, running, took=()):
    registry = CollectorRegistry()
    Counter("requests", "d", ("route",), registry=registry).labels("/a").inc(requests)
    Gauge("running", "d", registry=registry).set(running)
    histogram = Histogram("took", "d", buckets=(1, 2), registry=registry)
    for value in took:
        histogram.observe(value)
    return list(registry.collect())


def values(families):
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize(("mode", "running"), [("livesum", 5), ("livemin", 2), ("livemax", 3)])
def test_counts_and_histograms_are_added_up_and_gauges_as_they_say(mode, running):
    both = together([numbers(1, 2, took=[0.5]), numbers(10, 3, took=[0.5, 1.5, 9])], {"running": mode})
    assert values(both) == {
        ("requests_total", "/a"): 11,
        ("running",): running,
        ("took_bucket", "1.0"): 2,
        ("took_bucket", "2.0"): 3,
        ("took_bucket", "+Inf"): 4,
        ("took_count",): 4,
        ("took_sum",): 11.5,
    }


def test_one_workers_numbers_are_exposed_as_they_were():
    metrics = Metrics()
    metrics.requests.labels(CHAT, "ok", "2xx").inc()
    metrics.upstream_up.labels("eagle", "h:1").set(1)

    class One:
        def collect(self):
            return together([metrics.registry.collect()], metrics.modes)

    assert generate_latest(One()) == metrics.exposition()


def test_what_is_counted_of_a_replica_stays_whole_until_the_last_worker_has_left_it():
    board = Board.new()
    try:
        workers = [Metrics(), Metrics()]
        for number, metrics in enumerate(workers):
            shared = Shared(board, number, 2)
            shared.join(metrics, Limiter([]))
            metrics.upstream_up.labels("eagle", "h:1").set(1)
            metrics.batch_tokens.labels("eagle", "h:1", "1").inc(100)
            shared.write()
        counted = ("aerie_batch_completion_tokens_total", "eagle", "h:1", "1")
        workers[0].forget("eagle", "h:1")
        assert values(workers[0].source.collect())[counted] == 200
        workers[1].forget("eagle", "h:1")
        values(workers[1].source.collect())  # which tells the other
        assert counted not in values(workers[0].source.collect())
    finally:
        board.remove()


def test_every_gauge_says_how_it_is_put_together():
    metrics = Metrics()
    gauges = {collector._name for collector in vars(metrics).values() if isinstance(collector, Gauge)}
    assert set(metrics.modes) == gauges
    assert set(metrics.modes.values()) <= {"livesum", "livemin", "livemax"}


def test_a_successor_goes_on_counting_and_forgets_what_was_under_way():
    board = Board.new()
    try:
        first, second, watcher = Metrics(), Metrics(), Metrics()
        Shared(board, 1, 2).join(watcher, Limiter([]))
        one = Shared(board, 0, 2)
        one.join(first, Limiter([]))
        first.prompt_tokens.labels("a").inc(5)
        first.serving.now = 3
        one.write()
        assert told(watcher) == (5, 3)
        board.bury(0)
        assert told(watcher) == (5, 0)
        successor = Shared(board, 0, 2)
        successor.join(second, Limiter([]))
        second.prompt_tokens.labels("a").inc(2)
        successor.write()
        assert told(watcher) == told(second) == (7, 0)
    finally:
        board.remove()


def told(metrics):
    found = values(metrics.source.collect())
    return found[("aerie_prompt_tokens_total", "a")], found[("aerie_requests_in_flight",)]


def test_a_board_that_cannot_be_written_stops_no_worker(caplog):
    board = Board.new()
    shared, metrics = Shared(board, 0, 2), Metrics()
    shared.join(metrics, Limiter([]))
    board.remove()
    metrics.prompt_tokens.labels("a").inc(5)
    assert told(metrics) == (5, 0)
    board.bury(0)
    assert caplog.text.count("cannot be told") == 2


# Limits of keys at several workers


class Fleet:
    """Limiters that tell one another everything."""

    def __init__(self, limits, workers=2):
        self.now_ns = 10**12
        self.key = Key(id="alice", limits=Limits(**limits))
        self.workers = [self.worker() for _ in range(workers)]
        self.talk()

    def worker(self):
        return Limiter([self.key], clock_ns=lambda: self.now_ns)

    def talk(self):
        told = [worker.tell() for worker in self.workers]
        for index, worker in enumerate(self.workers):
            worker.hear({other: said for other, said in enumerate(told) if other != index})

    def admits(self, worker, tokens=1):
        try:
            with self.workers[worker].admit(self.key, tokens):
                return True
        except RateLimited:
            return False


def test_what_a_key_used_at_one_worker_is_gone_at_the_others():
    fleet = Fleet({"requests_per_s": 1, "burst": 2})
    assert fleet.admits(0)
    assert fleet.admits(0)
    fleet.talk()
    assert not fleet.admits(1)
    for _ in range(3):  # what was told once is charged once
        fleet.talk()
    fleet.now_ns += 10**9
    assert fleet.admits(1)
    assert not fleet.admits(1)


def test_tokens_are_settled_everywhere():
    fleet = Fleet({"tokens_per_min": 100})
    with fleet.workers[0].admit(fleet.key, 100) as allowance:
        fleet.talk()
        assert not fleet.admits(1)
        allowance.settle(40)
    fleet.talk()
    assert fleet.admits(1, tokens=60)


def test_requests_at_a_time_are_counted_together():
    fleet = Fleet({"concurrent": 1})
    with fleet.workers[0].admit(fleet.key, 1):
        fleet.talk()
        assert not fleet.admits(1)
    fleet.talk()
    assert fleet.admits(1)


def test_one_request_after_the_other_is_never_two_at_a_time():
    board, minted = Board.new(), Key(id="alice", limits=Limits(concurrent=1))
    try:
        workers, shares = [Limiter([minted]) for _ in range(3)], [Shared(board, index, 3) for index in range(3)]
        for worker, shared in zip(workers, shares, strict=True):
            shared.join(Metrics(), worker)
        for _ in range(3):
            for worker in workers:
                with worker.admit(minted, 1):
                    for shared in shares:
                        shared.hear()  # that it is over, nobody is told
        with workers[0].admit(minted, 1):
            shares[1].hear()
            with pytest.raises(RateLimited), workers[1].admit(minted, 1):
                pass
    finally:
        board.remove()


def test_a_successor_begins_at_nothing_and_a_newcomer_charges_no_past():
    fleet = Fleet({"requests_per_s": 0.001, "burst": 3})
    assert fleet.admits(0)
    fleet.talk()
    fleet.workers[0] = fleet.worker()
    fleet.talk()
    assert fleet.admits(0)
    fleet.talk()
    assert fleet.admits(1)
    assert not fleet.admits(1)


def test_a_keys_limit_holds_over_two_real_workers(tmp_path, upstream, chat):
    minted = mint("alice")
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n{minted.entry}    limits: {{concurrent: 1}}\n")
    release = Release()
    upstream.script = Script(steps=[wire.chunk("a", "Red"), release, wire.DONE])
    with two_workers(upstream.url, keys=path) as (_, client):
        client.headers["authorization"] = f"Bearer {minted.key}"

        def told_everywhere(status):
            return {client.post(CHAT, json=chat).status_code for _ in range(8)} == {status}

        with client.stream("POST", CHAT, json=chat | {"stream": True}) as stream:
            chunks = stream.iter_raw()
            next(chunks)
            upstream.script = Script()
            until(lambda: told_everywhere(429), "the other worker's refusal")
            release.now.set()
            assert b"".join(chunks).endswith(wire.DONE)
        until(lambda: told_everywhere(200), "room for one more everywhere")
