"""Service: are requests answered, how fast, and is there room for more?"""

from scripts.dashboards.panels import OF_NAMESPACE, OF_POOL, Dashboard, Panel, Query

GENERATION = 'route=~"/v1/(chat/completions|completions|responses)"'


def quantiles(histogram: str, selector: str, by: str) -> tuple[Query, ...]:
    """Median and 95th percentile."""
    rate = f"sum by ({by}, le) (rate({histogram}_bucket{{{selector}}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({q}, {rate})", f"{{{{{by}}}}} {name}")
        for q, name in ((0.5, "median"), (0.95, "p95"))
    )


_NOW = (
    Panel(
        title="Are requests failing?",
        description=(
            "Share of generation requests that ended in an error of ours or a runtime's, over five minutes. What "
            "clients did wrong is not in it. Above 0.1%: see AerieErrorBudgetBurnsFast."
        ),
        queries=(Query(f"namespace:aerie_generation_errors:ratio_rate5m{{{OF_NAMESPACE}}}", "errors"),),
        kind="stat",
        unit="percentunit",
        decimals=2,
        bad_above=0.001,
        width=6,
        height=4,
    ),
    Panel(
        title="How much of the error budget is left?",
        description=(
            "Of the last three days' 0.1%. Below 0 it is overspent: put off risky changes, and see "
            "AerieErrorBudgetBurnsSlowly."
        ),
        queries=(Query(f"1 - namespace:aerie_generation_errors:ratio_rate3d{{{OF_NAMESPACE}}} / 0.001", "left"),),
        kind="stat",
        unit="percentunit",
        decimals=0,
        bad_below=0,
        width=6,
        height=4,
    ),
    Panel(
        title="Is anybody waiting?",
        description="Requests in the gateway's queue, by pool. More than a few for long: see AerieQueueGrowing.",
        queries=(Query(f"pool:aerie_queue_waiting_requests:sum{{{OF_POOL}}}", "{{pool}}"),),
        kind="stat",
        decimals=0,
        bad_above=10,
        width=6,
        height=4,
    ),
    Panel(
        title="How many requests are being served?",
        description=(
            "Generation requests in all gateways, waiting ones included. At best well below pools x max_in_flight."
        ),
        queries=(Query(f"sum(aerie_requests_in_flight{{{OF_NAMESPACE}}})", "in flight"),),
        kind="stat",
        decimals=0,
        width=6,
        height=4,
    ),
)

_REQUESTS = (
    Panel(
        title="How do requests end?",
        description=(
            "Generation requests per second by outcome. `error` is ours, `rejected` the client's or a limit's, "
            "`cancelled` a client that left. If errors rise, look at Fleet; if rejections do, at the refusals "
            "below."
        ),
        queries=(
            Query(
                f"sum by (outcome) (rate(aerie_requests_total{{{OF_NAMESPACE},{GENERATION}}}[$__rate_interval]))",
                "{{outcome}}",
            ),
        ),
        unit="reqps",
        stacked=True,
        minimum=0,
    ),
    Panel(
        title="How long until the first token?",
        description=(
            "From a streamed request's first byte to its first event. If it rises with the queue, add replicas; if "
            "it rises alone, prompts became longer or the cache finds less of them (Fleet)."
        ),
        queries=quantiles("aerie_time_to_first_token_seconds", OF_POOL, "pool"),
        unit="s",
        minimum=0,
    ),
    Panel(
        title="How long does a token take?",
        description=(
            "Per streamed answer: time after the first token / further tokens. If it rises while the load does not, "
            "compare tau on the Speculation dashboard."
        ),
        queries=quantiles("aerie_time_per_output_token_seconds", OF_POOL, "pool"),
        unit="s",
        minimum=0,
    ),
    Panel(
        title="How long does a whole answer take?",
        description=(
            "Of requests that ended well, by route. Long answers take long: look at the time per token first."
        ),
        queries=quantiles("aerie_request_duration_seconds", f"{OF_NAMESPACE},{GENERATION}", "route"),
        unit="s",
        minimum=0,
    ),
)

_ROOM = (
    Panel(
        title="How long do requests wait for a place?",
        description=(
            "In the gateway's queue, of those let in. If it nears `queue.wait_s`, requests will be refused: add "
            "replicas, or raise `max_in_flight` if a replica's throughput still grows with its batch size "
            "(Speculation)."
        ),
        queries=quantiles("aerie_queue_time_seconds", OF_POOL, "pool"),
        unit="s",
        minimum=0,
    ),
    Panel(
        title="Is the queue growing?",
        description=(
            "Requests that wait, by pool. A rising line is more load than replicas can serve: see AerieQueueGrowing."
        ),
        queries=(Query(f"pool:aerie_queue_waiting_requests:sum{{{OF_POOL}}}", "{{pool}}"),),
        minimum=0,
    ),
    Panel(
        title="Who is refused, and why?",
        description=(
            "Refusals per second by code. `queue_full`, `queue_timeout` and `displaced` are for lack of room: see "
            "AerieQueueRefuses. The others are a key's own limits. Empty: none so far."
        ),
        queries=(Query(f"sum by (code) (rate(aerie_refusals_total{{{OF_NAMESPACE}}}[$__rate_interval]))", "{{code}}"),),
        unit="reqps",
        stacked=True,
        minimum=0,
        width=8,
    ),
    Panel(
        title="Whose requests are these?",
        description=(
            "Requests per second by class of key. If one class crowds out others, give its keys limits or a lower "
            "priority."
        ),
        queries=(
            Query(
                f"sum by (key_class) (rate(aerie_key_class_requests_total{{{OF_NAMESPACE}}}[$__rate_interval]))",
                "{{key_class}}",
            ),
        ),
        unit="reqps",
        stacked=True,
        minimum=0,
        width=8,
    ),
    Panel(
        title="Which clients are cut off?",
        description=(
            "Connections per second that were ended for what their client did or did not do. A steady trickle is "
            "the internet; a jump after a release is a client that cannot keep up: `not_reading`, `body_timeout`. "
            "Empty: none."
        ),
        queries=(
            Query(
                f"sum by (reason) (rate(aerie_connections_cut_total{{{OF_NAMESPACE}}}[$__rate_interval]))", "{{reason}}"
            ),
        ),
        unit="cps",
        stacked=True,
        minimum=0,
        width=8,
    ),
)

DASHBOARD = Dashboard(
    uid="aerie-service",
    title="Aerie: service",
    description="Are requests answered, how fast, and is there room for more?",
    panels=(*_NOW, *_REQUESTS, *_ROOM),
)
