"""Speculation: is it paying, at which batch sizes, and for what traffic?"""

from scripts.dashboards.panels import OF_NAMESPACE, OF_POOL, Dashboard, Panel, Query

_NOW = (
    Panel(
        title="Does speculation pay?",
        description=(
            "Tokens generated against what the calibrated baseline would have generated in the same seconds. Below "
            "1: see AerieSpeculationSlowerThanBaseline in the runbook. No value: the pool has no valid calibration, "
            "run `aerie-bench calibrate`."
        ),
        queries=(Query(f"pool:aerie_speedup:ratio_rate5m{{{OF_POOL}}}", "{{pool}}"),),
        kind="stat",
        unit="suffix: x",
        decimals=2,
        bad_below=1,
        width=6,
        height=4,
    ),
    Panel(
        title="How many tokens does a pass give?",
        description=(
            "Tau, the acceptance length: 1 + accepted drafts / verify passes. Near 1 the draft does not fit its "
            "target: see AerieAcceptanceNearOne. It alone does not say that speculation pays."
        ),
        queries=(Query(f"pool:aerie_spec_acceptance_length:ratio_rate5m{{{OF_POOL}}}", "{{pool}}"),),
        kind="stat",
        decimals=2,
        bad_below=1.1,
        width=6,
        height=4,
    ),
    Panel(
        title="How far is tau above break-even?",
        description=(
            "Tau less what pays at the batch sizes that the pool works at, weighed by its seconds there. Below 0: "
            "lower `policy.batch_size.off_above`, use a smaller tree, or train the draft on this traffic."
        ),
        queries=(Query(f"pool:aerie_spec_break_even_margin:ratio_rate5m{{{OF_POOL}}}", "{{pool}}"),),
        kind="stat",
        decimals=2,
        bad_below=0,
        width=6,
        height=4,
    ),
    Panel(
        title="Is speculation switched on?",
        description=(
            "Off while a gateway counts more requests per replica than `policy.batch_size.off_above`. If it is off "
            "for long, add replicas or take away the draft; if it is off where the panel below shows a speedup, "
            "raise the limit."
        ),
        queries=(Query(f"min by (model) (aerie_policy_speculation_pays{{{OF_NAMESPACE}}})", "{{model}}"),),
        kind="stat",
        words=(("0", "off", "red"), ("1", "on", "green")),
        bad_below=1,
        width=6,
        height=4,
    ),
)

_SPEED = (
    Panel(
        title="At which batch sizes does it pay?",
        description=(
            "Speedup over the calibrated baseline by batch size. Where a line stays below 1, set "
            "`policy.batch_size.off_above` below that batch size, or calibrate a smaller tree with `aerie-bench`."
        ),
        queries=(Query(f"pool_batch_size:aerie_speedup:ratio_rate5m{{{OF_POOL}}}", "{{pool}}, batch {{batch_size}}"),),
        unit="suffix: x",
        decimals=2,
        minimum=0,
        bad_below=1,
    ),
    Panel(
        title="Does a live baseline say the same?",
        description=(
            "Throughput of a speculative pool against the baseline pool beside it, where both worked at a batch "
            "size in the last half hour. If it differs from the calibrated figure, calibrate again. Empty: there is "
            "no baseline pool, or `policy.baseline_share` is too small for this traffic."
        ),
        queries=(
            Query(f"pool_batch_size:aerie_live_speedup:ratio_rate30m{{{OF_POOL}}}", "{{pool}}, batch {{batch_size}}"),
            Query(f"pool:aerie_live_speedup:ratio_rate30m{{{OF_POOL}}}", "{{pool}}, all"),
        ),
        unit="suffix: x",
        decimals=2,
        minimum=0,
        bad_below=1,
    ),
    Panel(
        title="Is acceptance above what pays?",
        description=(
            "Tau, and dashed the tau from which speculation pays at the present batch sizes. If the dashed line is "
            "above, the batches are too large for this tree; if tau itself fell, look at the Draft quality "
            "dashboard."
        ),
        queries=(
            Query(f"pool:aerie_spec_acceptance_length:ratio_rate5m{{{OF_POOL}}}", "{{pool}}"),
            Query(f"pool:aerie_spec_break_even_acceptance_length:mean5m{{{OF_POOL}}}", "{{pool}}, break-even"),
        ),
        decimals=2,
        minimum=1,
    ),
    Panel(
        title="What does a replica deliver at each batch size?",
        description=(
            "Tokens per second of one replica while it works at a batch size. If more load raises the batch size "
            "and not this, a replica is full: add one."
        ),
        queries=(
            Query(f"pool_batch_size:aerie_throughput:ratio_rate5m{{{OF_POOL}}}", "{{pool}}, batch {{batch_size}}"),
        ),
        unit="suffix: tok/s",
        minimum=0,
    ),
)

_ACCEPTANCE = (
    Panel(
        title="How deep are drafts accepted?",
        description=(
            "Share of verify passes that accept the draft at a position. Where it is next to nothing, `num_steps` "
            "can be smaller: each step costs time. Where it is still high at the last one, a deeper tree would give "
            "more."
        ),
        queries=(
            Query(f"sort_desc(pool_position:aerie_spec_acceptance:ratio_rate5m{{{OF_POOL}}})", "{{pool}} {{position}}"),
        ),
        kind="bargauge",
        unit="percentunit",
        minimum=0,
        maximum=1,
        width=8,
    ),
    Panel(
        title="Do long prompts cost acceptance?",
        description=(
            "Tau by prompt tokens (an upper bound). Beyond the lengths that a draft was trained on it falls: set "
            "`policy.max_prompt_tokens` where it goes below break-even, or train on longer texts."
        ),
        queries=(
            Query(
                f"pool_prompt_length:aerie_spec_acceptance_length:ratio_rate5m{{{OF_POOL}}}",
                "{{pool}}, up to {{prompt_length}}",
            ),
        ),
        decimals=2,
        minimum=1,
        width=8,
    ),
    Panel(
        title="Which tasks does the draft suit?",
        description=(
            "Tau by what clients say they do (header `x-aerie-task`). A task far below the others wants more of its "
            "kind in the training data, or a pool without speculation."
        ),
        queries=(Query(f"pool_task:aerie_spec_acceptance_length:ratio_rate5m{{{OF_POOL}}}", "{{pool}}, {{task}}"),),
        decimals=2,
        minimum=1,
        width=8,
    ),
    Panel(
        title="How many tokens does each pool generate?",
        description=("Completion tokens per second, from usage. It is demand as much as speed: compare speeds above."),
        queries=(Query(f"pool:aerie_completion_tokens:rate5m{{{OF_POOL}}}", "{{pool}}"),),
        unit="suffix: tok/s",
        stacked=True,
        minimum=0,
    ),
    Panel(
        title="Where does the policy send requests, and why?",
        description=(
            "Decisions per second by kind of pool and reason; docs/gateway.md explains each. Much `failover` means "
            "that a pool is ill, much `batch_size` that speculation is often switched off."
        ),
        queries=(
            Query(
                f"sum by (kind, reason) (rate(aerie_policy_decisions_total{{{OF_NAMESPACE}}}[$__rate_interval]))",
                "{{kind}}: {{reason}}",
            ),
        ),
        unit="reqps",
        stacked=True,
        minimum=0,
    ),
)

DASHBOARD = Dashboard(
    uid="aerie-speculation",
    title="Aerie: speculation",
    description="Is speculation paying, at which batch sizes, and for what traffic?",
    panels=(*_NOW, *_SPEED, *_ACCEPTANCE),
)
