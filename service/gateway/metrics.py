"""Every time series of the gateway, declared here and nowhere else: base units, bounded labels.

Owns names, help texts, buckets and how several workers' gauges become one. Refuses to own counting: finished requests
observe.py, a replica's time batches.py. Each app has its own registry; several workers' are put together by board.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double a scrape, and Prometheus has no use for them

_FINE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_FIRST_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DURATION_S = (0.0005, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ACCEPTANCE = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 7, 8)


def replica_label(url: str) -> str:
    """A base URL as a label value. Their number stays bounded: `Metrics.forget` drops those of replicas that left."""
    return url.partition("://")[2]


Together = Literal["livesum", "livemin", "livemax"]
"""How several workers' gauges become one, in prometheus_client's words."""


class FileGauges(NamedTuple):
    """Of a file that is read again when it changes."""

    generation: Gauge
    loaded: Gauge
    stale: Gauge


class Inside:
    """A context that knows how many are inside it `now`: a gauge that is moved twice a request costs more."""

    def __init__(self) -> None:
        self.now = 0

    def __enter__(self) -> None:
        self.now += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1


class _Late(Collector):
    """The first in its registry: whoever counts in numbers of his own hands them over before the series are read."""

    def __init__(self) -> None:
        self.tellers: set[Callable[[], None]] = set()

    def collect(self) -> Iterator[Metric]:
        for tell in tuple(self.tellers):
            tell()
        return iter(())


class Metrics:
    """The time series of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._late = _Late()
        self.registry.register(self._late)
        self.source: Collector = self.registry
        self._declare_requests()
        self._declare_latency()
        self._declare_tokens()
        self._declare_speculation()
        self._declare_batches()
        self._declare_calibration()
        self._declare_policy()
        self._declare_queue()
        self._declare_files()
        self._declare_upstream()
        self._declare_watchers()
        self._declare_process()
        # what every request counts: finding a series by its labels costs more than counting
        self.decision = cache(self.decisions.labels)
        self.queued = cache(self.queue_time.labels)
        self.between_chunks = cache(self.inter_chunk.labels)

    def _counter(self, name: str, what: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        return Histogram(name, what, labels, registry=self.registry, buckets=buckets)

    def _gauge(self, name: str, what: str, labels: Sequence[str] = (), *, together: Together) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry, multiprocess_mode=together)

    def _declare_requests(self) -> None:
        self.requests = self._counter(
            "aerie_requests_total",
            "Requests finished, by route, outcome (ok, error, rejected, cancelled) and status class.",
            ("route", "outcome", "status"),
        )
        self.of_class = self._counter(
            "aerie_key_class_requests_total",
            "Requests finished, by the class of their API key (at most 16 in a key file) and outcome.",
            ("key_class", "outcome"),
        )
        self.pool_requests = self._counter(
            "aerie_pool_requests_total",
            "Generation requests finished, by the pool that they were for and outcome.",
            ("pool", "outcome"),
        )
        self.serving = Inside()
        self.in_flight = self._gauge(
            "aerie_requests_in_flight", "Generation requests being served.", together="livesum"
        )
        self.in_flight.set_function(lambda: self.serving.now)
        self.cut_connections = self._counter(
            "aerie_connections_cut_total",
            "Connections ended because of what their client did or did not do: header_timeout, header_limit, "
            "body_timeout, malformed, not_reading.",
            ("reason",),
        )

    def _declare_latency(self) -> None:
        served = ("route", "pool")
        self.duration = self._histogram(
            "aerie_request_duration_seconds",
            "From a request's first byte to its answer's last, outcome ok only.",
            ("route",),
            buckets=_DURATION_S,
        )
        self.time_to_first_token = self._histogram(
            "aerie_time_to_first_token_seconds",
            "From a streamed request's first byte to the first event passed on.",
            served,
            buckets=_FIRST_TOKEN_S,
        )
        self.time_per_output_token = self._histogram(
            "aerie_time_per_output_token_seconds",
            "Per streamed request of one choice: (last chunk - first chunk) / (completion tokens - 1).",
            served,
            buckets=_FINE_S,
        )
        self.inter_chunk = self._histogram(
            "aerie_inter_chunk_seconds",
            "Between two arrivals of a stream's chunks. Chunks that arrive together are one arrival, and a chunk may "
            "hold several tokens: not a time per token.",
            served,
            buckets=_FINE_S,
        )

    def _declare_tokens(self) -> None:
        self.prompt_tokens = self._counter(
            "aerie_prompt_tokens_total", "Prompt tokens of requests whose usage is known.", ("pool",)
        )
        self.completion_tokens = self._counter(
            "aerie_completion_tokens_total", "Generated tokens of requests whose usage is known.", ("pool",)
        )

    def _declare_speculation(self) -> None:
        of_class = ("pool", "task", "prompt_length", "key_class")
        self.verify_passes = self._counter(
            "aerie_spec_verify_passes_total",
            "Verification passes of the target model. task: one of the file's `tasks`, from the header x-aerie-task; "
            "prompt_length: an upper bound of prompt tokens; beyond 512 combinations all are `other`.",
            of_class,
        )
        self.proposed_drafts = self._counter(
            "aerie_spec_proposed_drafts_total", "Draft tokens proposed, all branches.", of_class
        )
        self.correct_drafts = self._counter(
            "aerie_spec_correct_drafts_total",
            "Draft tokens accepted; tau = 1 + correct drafts / verify passes.",
            of_class,
        )
        self.accepted_drafts = self._counter(
            "aerie_spec_accepted_drafts_total",
            "Verify passes that accepted the draft at this position (1 is the first after the root).",
            ("pool", "position"),
        )
        self.acceptance_length = self._histogram(
            "aerie_spec_acceptance_length",
            "Tau per request: tokens per verify pass, bonus token included.",
            ("pool",),
            buckets=_ACCEPTANCE,
        )

    def _declare_batches(self) -> None:
        batch = ("pool", "replica", "batch_size")
        self.batch_seconds = self._counter(
            "aerie_batch_busy_seconds_total",
            "Seconds of a replica's work at a batch size (an upper bound), shared equally among the requests in the "
            "batch; of finished requests whose usage is known.",
            batch,
        )
        self.batch_tokens = self._counter(
            "aerie_batch_completion_tokens_total", "Tokens that these requests generated at that batch size.", batch
        )
        self.batch_calibrated_tokens = self._counter(
            "aerie_batch_calibrated_tokens_total",
            "Of these, the tokens generated while the baseline was known at that batch size: what speedup is of.",
            batch,
        )
        self.batch_baseline_tokens = self._counter(
            "aerie_batch_baseline_tokens_total",
            "Tokens that the calibrated baseline would have generated meanwhile: what speedup is relative to.",
            batch,
        )

    def _declare_calibration(self) -> None:
        self.break_even = self._gauge(
            "aerie_spec_break_even_acceptance_length",
            "Tau above which speculation pays at a batch size: cycle time / the baseline's step time, as calibrated.",
            ("pool", "batch_size"),
            together="livemax",
        )
        self.calibration_valid = self._gauge(
            "aerie_calibration_valid",
            "1 while every replica that has described itself is what the pool's calibration was made on, else 0.",
            ("pool",),
            together="livemin",
        )
        self.calibration_made = self._gauge(
            "aerie_calibration_timestamp_seconds",
            "When the pool's calibration was measured, in Unix time.",
            ("pool",),
            together="livemax",
        )
        self.pool_info = self._gauge(
            "aerie_pool_info",
            "1 for each pool: its kind, and the version that its configuration names.",
            ("pool", "kind", "version"),
            together="livemax",
        )
        self.pool_weight = self._gauge(
            "aerie_pool_weight",
            "The pool's share of its kind's requests is this over the sum of all; at 0 it takes none.",
            ("pool",),
            together="livemax",
        )

    def _declare_policy(self) -> None:
        self.decisions = self._counter(
            "aerie_policy_decisions_total",
            "Decisions by the kind of pool and why (docs/gateway.md); a failover after one is one more.",
            ("kind", "reason"),
        )
        self.speculation_pays = self._gauge(
            "aerie_policy_speculation_pays",
            "1 unless the batch size has been above what speculation pays at; of models that both kinds of pool serve.",
            ("model",),
            together="livemin",
        )
        self.switches = self._counter(
            "aerie_policy_switches_total",
            "How often the batch size has stopped speculation or let it start again.",
            ("model",),
        )

    def _declare_queue(self) -> None:
        self.queue_time = self._histogram(
            "aerie_queue_time_seconds",
            "In the gateway's queue, of requests that were let in.",
            ("pool",),
            buckets=_FIRST_TOKEN_S,
        )
        self.queue_waiting = self._gauge(
            "aerie_queue_waiting_requests", "Requests in the gateway's queue.", ("pool",), together="livesum"
        )
        self.refusals = self._counter(
            "aerie_refusals_total",
            "Generation requests refused for lack of room (the runtime's included) or by a key's limit, by error code.",
            ("code",),
        )
        self.retries = self._counter(
            "aerie_upstream_retries_total",
            "Attempts at another replica, because one could not be reached or its queue was full.",
            ("pool",),
        )

    def _declare_files(self) -> None:
        self.keys_file = self._file_gauges("keys", "the key file")
        self.keys_generation, self.keys_loaded, self.keys_stale = self.keys_file
        self.config_file = self._file_gauges("config", "the file of pools and policy")
        self.config_generation, self.config_loaded, self.config_stale = self.config_file

    def _file_gauges(self, name: str, what: str) -> FileGauges:
        return FileGauges(
            generation=self._gauge(
                f"aerie_{name}_generation", f"How many versions of {what} were taken over.", together="livemin"
            ),
            loaded=self._gauge(
                f"aerie_{name}_loaded_timestamp_seconds", f"When {what} was last taken over.", together="livemin"
            ),
            stale=self._gauge(
                f"aerie_{name}_stale", f"1 while {what} cannot be used and an older one is.", together="livemax"
            ),
        )

    def _declare_upstream(self) -> None:
        replica = ("pool", "replica")
        self.upstream_up = self._gauge(
            "aerie_upstream_up", "1 while the last probe of the runtime was good.", replica, together="livemin"
        )
        self.upstream_in_flight = self._gauge(
            "aerie_upstream_requests_in_flight", "Requests of this gateway at the replica.", replica, together="livesum"
        )
        self.upstream_others = self._gauge(
            "aerie_upstream_other_requests",
            "Requests of others running or waiting at the replica, from its last report.",
            replica,
            together="livemin",
        )
        self.upstream_breaker_closed = self._gauge(
            "aerie_upstream_breaker_closed",
            "1 while the replica's circuit breaker lets every request through.",
            replica,
            together="livemin",
        )
        self.upstream_info = self._gauge(
            "aerie_upstream_info",
            "1 for the runtime as last described.",
            (*replica, "version", "device", "algorithm", "tree", "model"),
            together="livemax",
        )
        self.zombies = self._counter(
            "aerie_upstream_zombies_total",
            "Requests that a runtime was still at work on when their client had its end, by the error that ended them "
            "(the client left, the gateway drained or gave up waiting, the connection broke); each is aborted.",
            ("reason",),
        )
        self.aborts = self._counter(
            "aerie_upstream_aborts_total", "Abort requests to the runtime, by whether it took them.", ("result",)
        )

    def _declare_watchers(self) -> None:
        self.losslessness_checks = self._counter(
            "aerie_losslessness_checks_total",
            "Greedy answers compared with the baseline pool's: same, within_epsilon, mismatch; failed: not comparable.",
            ("pool", "result"),
        )
        self.captured_prompts = self._counter(
            "aerie_capture_prompts_total",
            "Prompts sampled for training: written; dropped for lack of room, or as of no use in training; failed.",
            ("result",),
        )

    def _declare_process(self) -> None:
        self.build_info = self._gauge(
            "aerie_build_info", "1, for the gateway's version.", ("version",), together="livemax"
        )
        self.build_info.labels(version("aerie")).set(1)
        self.start_time = self._gauge(
            "aerie_start_time_seconds", "When the gateway started, in Unix time.", together="livemin"
        )
        self.start_time.set_to_current_time()

    def before_collection(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have this called whenever the series are about to be read; what is returned ends that."""
        self._late.tellers.add(tell)
        return lambda: self._late.tellers.discard(tell)

    def follow_queue(self, pool: str, waiting: Callable[[], float]) -> None:
        """Read a queue's length at every scrape."""
        self.queue_waiting.labels(pool).set_function(waiting)

    def describe_pool(self, pool: str, kind: str, version: str, weight: float) -> None:
        """What it is, from now on."""
        self.pool_info.remove_by_labels({"pool": pool})
        self.pool_info.labels(pool, kind, version).set(1)
        self.pool_weight.labels(pool).set(weight)
        for outcome in ("ok", "error"):  # a rate needs a zero to begin with: a canary's first errors are to be seen
            self.pool_requests.labels(pool, outcome)

    def forget_pool(self, pool: str) -> None:
        """Drop what is said of a pool that is gone; what it has counted stays."""
        for gauge in (self.queue_waiting, self.pool_info, self.pool_weight):
            gauge.remove_by_labels({"pool": pool})

    def follow(
        self,
        pool: str,
        replica: str,
        *,
        in_flight: Callable[[], float],
        others: Callable[[], float],
        breaker_closed: Callable[[], float],
    ) -> None:
        """Read a replica's numbers at every scrape, until `forget`."""
        self.upstream_in_flight.labels(pool, replica).set_function(in_flight)
        self.upstream_others.labels(pool, replica).set_function(others)
        self.upstream_breaker_closed.labels(pool, replica).set_function(breaker_closed)

    def forget(self, pool: str, replica: str) -> None:
        """Drop every time series of a replica; of several workers, the board drops counters when the last has."""
        gauges = (
            self.upstream_up,
            self.upstream_info,
            self.upstream_in_flight,
            self.upstream_others,
            self.upstream_breaker_closed,
        )
        counters = (self.batch_seconds, self.batch_tokens, self.batch_calibrated_tokens, self.batch_baseline_tokens)
        for family in (*gauges, *(counters if self.source is self.registry else ())):
            family.remove_by_labels({"pool": pool, "replica": replica})

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.source)

    @property
    def modes(self) -> dict[str, str]:
        """How several workers' gauges become one, in prometheus_client's words: `livesum`, `livemin` or `livemax`."""
        return {gauge._name: gauge._multiprocess_mode for gauge in vars(self).values() if isinstance(gauge, Gauge)}
