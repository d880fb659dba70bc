"""Fleet: what runs where, is every replica well, is the canary as good as the rest?"""

from scripts.dashboards.panels import OF_NAMESPACE, OF_POOL, Dashboard, Panel, Query

_REPLICAS = (
    Panel(
        title="Which replicas take requests?",
        description=(
            "Up while the last probe was good and the circuit breaker is closed, as the gateway that sees it worst "
            "sees it. Down for long: see AeriePoolDown; stripes: see AerieUpstreamFlapping."
        ),
        queries=(
            Query(
                f"min by (pool, replica) (aerie_upstream_up{{{OF_POOL}}} * aerie_upstream_breaker_closed{{{OF_POOL}}})",
                "{{pool}}, {{replica}}",
            ),
        ),
        kind="state-timeline",
        words=(("0", "down", "red"), ("1", "up", "green")),
        bad_below=1,
        height=6,
    ),
    Panel(
        title="What runs where?",
        description=(
            "Runtimes as they describe themselves. Replicas of one pool that differ in version or tree are a "
            "roll-out that has not ended, or has stopped."
        ),
        queries=(
            Query(
                f"max by (pool, replica, version, device, algorithm, tree, model) (aerie_upstream_info{{{OF_POOL}}})"
            ),
        ),
        kind="table",
        columns=("pool", "replica", "version", "device", "algorithm", "tree", "model"),
        height=6,
    ),
    Panel(
        title="Which versions do gateways and pools have?",
        description=(
            "Drafts as the pools' configuration names them. Two versions of one pool: a gateway has an old file."
        ),
        queries=(Query(f"count by (pool, kind, version) (aerie_pool_info{{{OF_POOL}}})"),),
        kind="table",
        columns=("pool", "kind", "version"),
        width=8,
        height=6,
    ),
    Panel(
        title="Is the load even?",
        description=(
            "Requests of the gateways at each replica. One far above the others has long conversations, or is "
            "slower: compare its hardware."
        ),
        queries=(
            Query(f"sum by (pool, replica) (aerie_upstream_requests_in_flight{{{OF_POOL}}})", "{{pool}}, {{replica}}"),
        ),
        minimum=0,
        width=8,
    ),
    Panel(
        title="Are requests sent twice?",
        description=(
            "Attempts at another replica per second, because one could not be reached or was full. A steady rate: a "
            "replica is listed that is not there, or its own queue is shorter than `max_in_flight`."
        ),
        queries=(
            Query(f"sum by (pool) (rate(aerie_upstream_retries_total{{{OF_POOL}}}[$__rate_interval]))", "{{pool}}"),
        ),
        unit="reqps",
        minimum=0,
        width=8,
    ),
)

_CANARY = (
    Panel(
        title="Is the canary as good as the stable draft?",
        description=(
            "Each version's acceptance length and time per token, relative to the version with most requests. Below "
            "1 in acceptance or above 1 in time: see AerieCanaryWorse. Better in both for a day: raise its weight."
        ),
        queries=(
            Query(
                f"version:aerie_spec_acceptance_length_against_stable:ratio_rate30m{{{OF_NAMESPACE}}}",
                "{{version}} acceptance",
            ),
            Query(
                f"version:aerie_time_per_output_token_against_stable:ratio_rate30m{{{OF_NAMESPACE}}}",
                "{{version}} time per token",
            ),
        ),
        decimals=2,
        bad_below=1,
    ),
    Panel(
        title="Does the canary fail more often?",
        description=(
            "Share of failed requests by draft version, over half an hour. More than the stable one: roll it back."
        ),
        queries=(Query(f"version:aerie_pool_errors:ratio_rate30m{{{OF_NAMESPACE}}}", "{{version}}"),),
        unit="percentunit",
        minimum=0,
    ),
)

_RUNTIMES = (
    Panel(
        title="Does speculation cost cache hits?",
        description=(
            "Share of prompt tokens found in SGLang's cache, beside the share of first drafts accepted. A draft's "
            "own memory leaves less for the cache: if hits fell when it came, lower `max-running-requests` or give "
            "it memory. See AerieCacheHitCollapse."
        ),
        queries=(
            Query(f"instance:sglang_cache_hit:ratio_rate5m{{{OF_NAMESPACE}}}", "{{instance}} cache hit"),
            Query(
                f'pool_position:aerie_spec_acceptance:ratio_rate5m{{{OF_POOL},position="1"}}', "{{pool}} first draft"
            ),
        ),
        unit="percentunit",
        minimum=0,
        maximum=1,
    ),
    Panel(
        title="How full are the runtimes?",
        description=(
            "Share of the KV cache in use. Near 100% SGLang holds requests back or retracts them: lower "
            "`max_in_flight`, or add replicas."
        ),
        queries=(Query(f"instance:sglang_token_usage:max{{{OF_NAMESPACE}}}", "{{instance}}"),),
        unit="percentunit",
        minimum=0,
        maximum=1,
    ),
    Panel(
        title="Do runtimes queue by themselves?",
        description=(
            "Requests that run and wait inside SGLang. Waiting ones belong in the gateway's queue, which is fair: "
            "lower `max_in_flight` to the runtime's `max-running-requests`."
        ),
        queries=(
            Query(f"instance:sglang_running_requests:max{{{OF_NAMESPACE}}}", "{{instance}} running"),
            Query(f"instance:sglang_waiting_requests:max{{{OF_NAMESPACE}}}", "{{instance}} waiting"),
        ),
        minimum=0,
    ),
    Panel(
        title="Do runtimes work for nobody?",
        description=(
            "Requests per second that were cut off while a runtime was at work on them, by reason, and what became "
            "of the aborts. Failed aborts run to their max_tokens: see AerieZombieRequests. Empty: none so far."
        ),
        queries=(
            Query(
                f"sum by (reason) (rate(aerie_upstream_zombies_total{{{OF_NAMESPACE}}}[$__rate_interval]))",
                "{{reason}}",
            ),
            Query(
                f"sum by (result) (rate(aerie_upstream_aborts_total{{{OF_NAMESPACE}}}[$__rate_interval]))",
                "aborts {{result}}",
            ),
        ),
        unit="reqps",
        minimum=0,
    ),
)

DASHBOARD = Dashboard(
    uid="aerie-fleet",
    title="Aerie: fleet",
    description="What runs where, is every replica well, is the canary as good as the rest?",
    panels=(*_REPLICAS, *_CANARY, *_RUNTIMES),
)
