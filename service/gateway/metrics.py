"""Every time series of the gateway, declared here and nowhere else: base units, bounded labels.

Owns names, help texts, buckets and how a finished request is counted. Refuses to own when: the middleware calls
`observe` once per request. Each app has its own registry; several workers' are put together by board.py.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from service.gateway.record import RequestRecord, Speculation

_FINE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_FIRST_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DURATION_S = (0.0005, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ACCEPTANCE = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 7, 8)

POSITIONS = 16
"""Draft positions with a label of their own; deeper ones share the label `17+`."""


def replica_label(url: str) -> str:
    """A base URL as a label value. Their number stays bounded: `Metrics.forget` drops those of replicas that left."""
    return url.partition("://")[2]


class FileGauges(NamedTuple):
    """Of a file that is read again when it changes."""

    generation: Gauge
    loaded: Gauge
    stale: Gauge


class Metrics:
    """The time series of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.source: Collector = self.registry
        self._declare_requests()
        self._declare_tokens()
        self._declare_speculation()
        self._declare_policy()
        self._declare_queue()
        self._declare_files()
        self._declare_upstream()
        # what every request counts: finding a series by its labels costs more than counting
        self.decision = cache(self.decisions.labels)
        self.queued = cache(self.queue_time.labels)
        self.between_chunks = cache(self.inter_chunk.labels)
        self._requests = cache(self.requests.labels)
        self._of_class = cache(self.of_class.labels)
        self._duration = cache(self.duration.labels)
        self._first_token = cache(self.time_to_first_token.labels)
        self._per_token = cache(self.time_per_output_token.labels)
        self._accepted = cache(self.accepted_drafts.labels)

    def _declare_requests(self) -> None:
        route = ("route",)
        self.requests = Counter(
            "aerie_requests_total",
            "Requests finished, by route, outcome (ok, error, rejected, cancelled) and status class.",
            ("route", "outcome", "status"),
            registry=self.registry,
        )
        self.of_class = Counter(
            "aerie_key_class_requests_total",
            "Requests finished, by the class of their API key (at most 16 in a key file) and outcome.",
            ("key_class", "outcome"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "aerie_requests_in_flight",
            "Generation requests being served.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.duration = Histogram(
            "aerie_request_duration_seconds",
            "From a request's first byte to its answer's last, outcome ok only.",
            route,
            buckets=_DURATION_S,
            registry=self.registry,
        )
        self.time_to_first_token = Histogram(
            "aerie_time_to_first_token_seconds",
            "From a streamed request's first byte to the first event passed on.",
            route,
            buckets=_FIRST_TOKEN_S,
            registry=self.registry,
        )
        self.time_per_output_token = Histogram(
            "aerie_time_per_output_token_seconds",
            "Per streamed request of one choice: (last chunk - first chunk) / (completion tokens - 1).",
            route,
            buckets=_FINE_S,
            registry=self.registry,
        )
        self.inter_chunk = Histogram(
            "aerie_inter_chunk_seconds",
            "Between two arrivals of a stream's chunks. Chunks that arrive together are one arrival, and a chunk may "
            "hold several tokens: not a time per token.",
            route,
            buckets=_FINE_S,
            registry=self.registry,
        )
        self.cut_connections = Counter(
            "aerie_connections_cut_total",
            "Connections ended because of what their client did or did not do: header_timeout, header_limit, "
            "body_timeout, malformed, not_reading.",
            ("reason",),
            registry=self.registry,
        )

    def _declare_tokens(self) -> None:
        self.prompt_tokens = Counter(
            "aerie_prompt_tokens_total", "Prompt tokens of requests whose usage is known.", registry=self.registry
        )
        self.completion_tokens = Counter(
            "aerie_completion_tokens_total",
            "Generated tokens of requests whose usage is known.",
            registry=self.registry,
        )

    def _declare_speculation(self) -> None:
        self.verify_passes = Counter(
            "aerie_spec_verify_passes_total", "Verification passes of the target model.", registry=self.registry
        )
        self.proposed_drafts = Counter(
            "aerie_spec_proposed_drafts_total", "Draft tokens proposed, all branches.", registry=self.registry
        )
        self.correct_drafts = Counter(
            "aerie_spec_correct_drafts_total",
            "Draft tokens accepted; tau = 1 + correct drafts / verify passes.",
            registry=self.registry,
        )
        self.accepted_drafts = Counter(
            "aerie_spec_accepted_drafts_total",
            "Verify passes that accepted the draft at this position (1 is the first after the root).",
            ("position",),
            registry=self.registry,
        )
        self.acceptance_length = Histogram(
            "aerie_spec_acceptance_length",
            "Tau per request: tokens per verify pass, bonus token included.",
            buckets=_ACCEPTANCE,
            registry=self.registry,
        )

    def _declare_policy(self) -> None:
        self.decisions = Counter(
            "aerie_policy_decisions_total",
            "Decisions by the kind of pool and why (docs/gateway.md); a failover after one is one more.",
            ("kind", "reason"),
            registry=self.registry,
        )
        self.speculation_pays = Gauge(
            "aerie_policy_speculation_pays",
            "1 unless the batch size has been above what speculation pays at.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.switches = Counter(
            "aerie_policy_switches_total",
            "How often the batch size has stopped speculation or let it start again.",
            registry=self.registry,
        )

    def _declare_queue(self) -> None:
        self.queue_time = Histogram(
            "aerie_queue_time_seconds",
            "In the gateway's queue, of requests that were let in.",
            ("pool",),
            buckets=_FIRST_TOKEN_S,
            registry=self.registry,
        )
        self.queue_waiting = Gauge(
            "aerie_queue_waiting_requests",
            "Requests in the gateway's queue.",
            ("pool",),
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.refusals = Counter(
            "aerie_refusals_total",
            "Generation requests refused for lack of room (the runtime's included) or by a key's limit, by error code.",
            ("code",),
            registry=self.registry,
        )
        self.retries = Counter(
            "aerie_upstream_retries_total",
            "Attempts at another replica, because one could not be reached or its queue was full.",
            ("pool",),
            registry=self.registry,
        )

    def _declare_files(self) -> None:
        self.keys_file = self._file_gauges("keys", "the key file")
        self.keys_generation, self.keys_loaded, self.keys_stale = self.keys_file
        self.config_file = self._file_gauges("config", "the file of pools and policy")
        self.config_generation, self.config_loaded, self.config_stale = self.config_file

    def _file_gauges(self, name: str, what: str) -> FileGauges:
        return FileGauges(
            generation=Gauge(
                f"aerie_{name}_generation",
                f"How many versions of {what} were taken over.",
                multiprocess_mode="livemin",
                registry=self.registry,
            ),
            loaded=Gauge(
                f"aerie_{name}_loaded_timestamp_seconds",
                f"When {what} was last taken over.",
                multiprocess_mode="livemin",
                registry=self.registry,
            ),
            stale=Gauge(
                f"aerie_{name}_stale",
                f"1 while {what} cannot be used and an older one is.",
                multiprocess_mode="livemax",
                registry=self.registry,
            ),
        )

    def _declare_upstream(self) -> None:
        replica = ("pool", "replica")
        self.upstream_up = Gauge(
            "aerie_upstream_up",
            "1 while the last probe of the runtime was good.",
            replica,
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.upstream_in_flight = Gauge(
            "aerie_upstream_requests_in_flight",
            "Requests of this gateway at the replica.",
            replica,
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.upstream_others = Gauge(
            "aerie_upstream_other_requests",
            "Requests of others running or waiting at the replica, from its last report.",
            replica,
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.upstream_breaker_closed = Gauge(
            "aerie_upstream_breaker_closed",
            "1 while the replica's circuit breaker lets every request through.",
            replica,
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.upstream_info = Gauge(
            "aerie_upstream_info",
            "1 for the runtime as last described.",
            (*replica, "version", "device", "algorithm", "tree", "model"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        self.zombies = Counter(
            "aerie_upstream_zombies_total",
            "Requests that a runtime was still at work on when their client had its end, by the error that ended them "
            "(the client left, the gateway drained or gave up waiting, the connection broke); each is aborted.",
            ("reason",),
            registry=self.registry,
        )
        self.aborts = Counter(
            "aerie_upstream_aborts_total",
            "Abort requests to the runtime, by whether it took them.",
            ("result",),
            registry=self.registry,
        )

    def follow_queue(self, pool: str, waiting: Callable[[], float]) -> None:
        """Read a queue's length at every scrape."""
        self.queue_waiting.labels(pool).set_function(waiting)

    def forget_queue(self, pool: str) -> None:
        """Drop the queue of a pool that is gone."""
        self.queue_waiting.remove_by_labels({"pool": pool})

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
        """Drop every time series of a replica."""
        for gauge in (
            self.upstream_up,
            self.upstream_info,
            self.upstream_in_flight,
            self.upstream_others,
            self.upstream_breaker_closed,
        ):
            gauge.remove_by_labels({"pool": pool, "replica": replica})

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request, whatever its outcome."""
        route, outcome = record.route, record.outcome
        self._requests(route, outcome, f"{record.status // 100}xx").inc()
        if record.key_class is not None:
            self._of_class(record.key_class, outcome).inc()
        if outcome == "ok":
            self._duration(route).observe(record.duration_s)
        if record.time_to_first_token_s is not None:
            self._first_token(route).observe(record.time_to_first_token_s)
        if record.time_per_output_token_s is not None:
            self._per_token(route).observe(record.time_per_output_token_s)
        if record.usage is not None:
            self.prompt_tokens.inc(record.usage.prompt_tokens)
            self.completion_tokens.inc(record.usage.completion_tokens)
        if record.speculation is not None:
            self._observe_speculation(record.speculation)

    def _observe_speculation(self, speculation: Speculation) -> None:
        self.verify_passes.inc(speculation.verify_passes)
        self.proposed_drafts.inc(speculation.proposed_drafts)
        self.correct_drafts.inc(speculation.correct_drafts)
        for position, passes in enumerate(speculation.accepted_at(), start=1):
            self._accepted(str(position) if position <= POSITIONS else f"{POSITIONS + 1}+").inc(passes)
        if speculation.acceptance_length is not None:
            self.acceptance_length.observe(speculation.acceptance_length)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.source)

    @property
    def modes(self) -> dict[str, str]:
        """How several workers' gauges become one, in prometheus_client's words: `livesum`, `livemin` or `livemax`."""
        return {gauge._name: gauge._multiprocess_mode for gauge in vars(self).values() if isinstance(gauge, Gauge)}
