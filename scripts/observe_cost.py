"""What observing costs: to record a finished request, to account for its time, and a scrape of ten replicas.

`python -m scripts.observe_cost` prints microseconds and milliseconds of CPU time, the best of many runs.
"""

import time
from collections.abc import Callable

from service.gateway.batches import LABELS, BatchMeter
from service.gateway.load import Load
from service.gateway.metrics import Metrics
from service.gateway.observe import Recorder
from service.gateway.record import RequestRecord, Speculation, Usage

ROUTE = "/v1/chat/completions"
REPLICAS = 10


def best(work: Callable[[], object], times: int, runs: int = 20) -> float:
    """Seconds of CPU time for one of so many."""
    found = []
    for _ in range(runs):
        started_s = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - started_s) / times)
    return min(found)


def record(number: int) -> RequestRecord:
    """A streamed request that speculated."""
    finished = RequestRecord("id", "POST", ROUTE, started_s=0.5, ended_s=3.0, route=ROUTE, status=200, pool="eagle")
    finished.task, finished.key_class, finished.stream = f"task{number % 4}", f"class{number % 3}", True
    finished.first_chunk_s, finished.last_chunk_s = 1.0, 2.0
    finished.usage, finished.speculation = Usage(10 ** (number % 5), 64), Speculation(20, 40, 140, (5, 4, 3, 8))
    return finished


def meter(metrics: Metrics, replica: str) -> tuple[BatchMeter, Load]:
    """Of a replica that has worked at every batch size, with a baseline."""
    load = Load(capacity=256)
    one = BatchMeter(metrics, "eagle", replica, load)
    one.baseline = lambda batch_size: 20.0 * batch_size
    counters = (
        metrics.batch_seconds,
        metrics.batch_tokens,
        metrics.batch_calibrated_tokens,
        metrics.batch_baseline_tokens,
    )
    for family in counters:
        for label in LABELS:
            family.labels("eagle", replica, label).inc()
    metrics.follow("eagle", replica, in_flight=lambda: 1, others=lambda: 0, breaker_closed=lambda: 1)
    return one, load


def main() -> None:
    """Measure and print."""
    metrics = Metrics()
    recorder, records = Recorder(metrics), [record(number) for number in range(60)]
    meters = [meter(metrics, f"10.0.0.{number}:30000") for number in range(REPLICAS)]
    metered, load = meters[0]

    def stay() -> None:
        entered = metered.enter()
        load.ours += 1
        entered.arrived(30)
        entered.arrived(34)
        entered.generated(64)
        metered.settle()
        load.ours -= 1

    record_s = best(lambda: [recorder.observe(one) for one in records], 50) / len(records)
    print(f"to record a request: {record_s * 1e6:.1f} us; to account for its time: {best(stay, 3000) * 1e6:.1f} us")
    scrape_s, lines = best(metrics.exposition, 1, 30), metrics.exposition().count(b"\n")
    print(f"a scrape of {REPLICAS} replicas, {lines} lines: {scrape_s * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
