"""Every time series of the gateway, declared here and nowhere else: base units, bounded labels.

Owns names, help texts, buckets and how a finished request is counted. Refuses to own when: the middleware calls
`observe` once per request. Each app has its own registry.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.gateway.record import RequestRecord, Speculation

_FINE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_FIRST_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DURATION_S = (0.0005, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ACCEPTANCE = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 7, 8)

POSITIONS = 16
"""Draft positions with a label of their own; deeper ones share the label `17+`."""


class Metrics:
    """The time series of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._declare_requests()
        self._declare_tokens()
        self._declare_speculation()
        self._declare_upstream()

    def _declare_requests(self) -> None:
        route = ("route",)
        self.requests = Counter(
            "aerie_requests_total",
            "Requests finished, by route, outcome (ok, error, rejected, cancelled) and status class.",
            ("route", "outcome", "status"),
            registry=self.registry,
        )
        self.in_flight = Gauge("aerie_requests_in_flight", "Generation requests being served.", registry=self.registry)
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
            "Between two chunks of a stream. Under speculation a chunk holds several tokens: not a time per token.",
            route,
            buckets=_FINE_S,
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

    def _declare_upstream(self) -> None:
        self.upstream_up = Gauge(
            "aerie_upstream_up", "1 while the last probe of the runtime was good.", registry=self.registry
        )
        self.upstream_info = Gauge(
            "aerie_upstream_info",
            "1 for the runtime as last described.",
            ("version", "device", "algorithm", "tree", "model"),
            registry=self.registry,
        )
        self.aborts = Counter(
            "aerie_upstream_aborts_total",
            "Abort requests to the runtime, by whether it took them.",
            ("result",),
            registry=self.registry,
        )

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request, whatever its outcome."""
        route = record.route
        self.requests.labels(route, record.outcome, f"{record.status // 100}xx").inc()
        if record.outcome == "ok":
            self.duration.labels(route).observe(record.duration_s)
        if record.time_to_first_token_s is not None:
            self.time_to_first_token.labels(route).observe(record.time_to_first_token_s)
        if record.time_per_output_token_s is not None:
            self.time_per_output_token.labels(route).observe(record.time_per_output_token_s)
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
            self.accepted_drafts.labels(str(position) if position <= POSITIONS else f"{POSITIONS + 1}+").inc(passes)
        if speculation.acceptance_length is not None:
            self.acceptance_length.observe(speculation.acceptance_length)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
