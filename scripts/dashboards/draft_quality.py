"""Draft quality: does the draft still fit the traffic, and is the next one better?"""

from scripts.dashboards.panels import OF_NAMESPACE, OF_POOL, Dashboard, Panel, Query

TAU_1H = f"pool:aerie_spec_acceptance_length:ratio_rate1h{{{OF_POOL}}}"
PASSES = f"rate(aerie_spec_verify_passes_total{{{OF_POOL}}}[1h])"


def _accepted_in_a_day(offset: str = "") -> str:
    """Drafts accepted per verify pass, by task: tau less one."""
    correct, passes = (
        f"sum by (pool, task) (increase(aerie_spec_{what}_total{{{OF_POOL}}}[1d]{offset}))"
        for what in ("correct_drafts", "verify_passes")
    )
    return f"{correct} / ({passes} > 0)"


_DRIFT = (
    Panel(
        title="Does the draft fit as it did a week ago?",
        description=(
            "Tau over an hour, and dashed the week before. If the line sinks below the dashed one and stays, find "
            "out which traffic it is (the panels beside), capture prompts of it and train: docs/train.md. See "
            "AerieAcceptanceDropped."
        ),
        queries=(Query(TAU_1H, "{{pool}}"), Query(f"{TAU_1H} offset 1w", "{{pool}}, week before")),
        decimals=2,
        minimum=1,
    ),
    Panel(
        title="Which tasks have drifted?",
        description=(
            "Tau by task, today less a week ago. A task below 0 is one that the draft knows less well than it did: "
            "the prompts changed, or the target. Empty in the first week."
        ),
        queries=(
            Query(
                f"{_accepted_in_a_day()} - {_accepted_in_a_day(' offset 1w')}",
                "{{pool}}, {{task}}",
            ),
        ),
        decimals=2,
        bad_below=0,
    ),
    Panel(
        title="Has the traffic changed?",
        description=(
            "Share of verify passes by task. If tau fell and no task's own tau did, the mix moved to harder tasks: "
            "the draft is as good as it was."
        ),
        queries=(
            Query(
                f"sum by (task) ({PASSES}) / ignoring (task) group_left () (sum({PASSES}) > 0)",
                "{{task}}",
            ),
        ),
        unit="percentunit",
        stacked=True,
        minimum=0,
        maximum=1,
        width=8,
    ),
    Panel(
        title="Whose traffic does it not suit?",
        description=(
            "Tau by class of key. A class near 1 pays for drafts that are thrown away: give its keys `speculation: "
            "off`, or train on its prompts with its consent."
        ),
        queries=(
            Query(f"pool_key_class:aerie_spec_acceptance_length:ratio_rate5m{{{OF_POOL}}}", "{{pool}}, {{key_class}}"),
        ),
        decimals=2,
        minimum=1,
        width=8,
    ),
    Panel(
        title="How different are requests?",
        description=(
            "Tau of single requests: the tenth that is accepted least, the median, the tenth accepted most. A low "
            "tenth under a good median is one kind of request that training has not seen."
        ),
        queries=tuple(
            Query(
                f"histogram_quantile({q}, sum by (le) (rate(aerie_spec_acceptance_length_bucket{{{OF_POOL}}}[1h])))",
                name,
            )
            for q, name in ((0.1, "lowest tenth"), (0.5, "median"), (0.9, "highest tenth"))
        ),
        decimals=2,
        minimum=1,
        width=8,
    ),
)

_NEXT = (
    Panel(
        title="Is the next draft better?",
        description=(
            "Tau by draft version, over half an hour. Let a canary serve a day of traffic before believing it; then "
            "give it the weight, or take it back."
        ),
        queries=(Query(f"version:aerie_spec_acceptance_length:ratio_rate30m{{{OF_NAMESPACE}}}", "{{version}}"),),
        decimals=2,
        minimum=1,
    ),
    Panel(
        title="At which depth is acceptance lost?",
        description=(
            "Share of verify passes that accept the draft at each position. If only the deep ones sink, the draft's "
            "own tokens lead it astray: train with more unrolled steps. If the first sinks, the traffic is new to "
            "it."
        ),
        queries=(
            Query(f"pool_position:aerie_spec_acceptance:ratio_rate5m{{{OF_POOL}}}", "{{pool}}, position {{position}}"),
        ),
        unit="percentunit",
        minimum=0,
    ),
    Panel(
        title="Did speculation change an answer?",
        description=(
            "Greedy answers compared with the baseline pool's, in a day, by result. Any `mismatch`: see "
            "AerieLosslessnessMismatch. Empty: the check is off."
        ),
        queries=(
            Query(f"sum by (result) (increase(aerie_losslessness_checks_total{{{OF_NAMESPACE}}}[1d]))", "{{result}}"),
        ),
        decimals=0,
        minimum=0,
        width=8,
    ),
    Panel(
        title="Is there fresh data to train on?",
        description=(
            "Captured prompts in a day, by what became of them. `dropped`: of no use in training, or faster than "
            "the disk; `failed`: look at the gateway's log. At the size limit the oldest files go: move them away "
            "before. Empty: capture is off, as it is unless somebody turns it on."
        ),
        queries=(
            Query(f"sum by (result) (increase(aerie_capture_prompts_total{{{OF_NAMESPACE}}}[1d]))", "{{result}}"),
        ),
        decimals=0,
        minimum=0,
        width=8,
    ),
    Panel(
        title="How old is the calibration?",
        description=(
            "Age of what speedup is relative to. Red after 90 days: run `aerie-bench calibrate` again "
            "(AerieCalibrationStale). No value: there is none."
        ),
        queries=(Query(f"time() - max by (pool) (aerie_calibration_timestamp_seconds{{{OF_POOL}}} != 0)", "{{pool}}"),),
        kind="stat",
        unit="s",
        bad_above=90 * 86400,
        width=8,
    ),
)

DASHBOARD = Dashboard(
    uid="aerie-draft-quality",
    title="Aerie: draft quality",
    description="Does the draft still fit the traffic, and is the next one better?",
    panels=(*_DRIFT, *_NEXT),
    since="now-30d",
    refresh="5m",
)
