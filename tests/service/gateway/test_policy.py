"""Which pool serves a request: every reason, who wins over whom, and laws that hold for any request and load."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.gateway.errors import InvalidRequest
from service.gateway.policy import (
    BatchSizeLimits,
    Decision,
    Kind,
    Live,
    Mode,
    PolicyConfig,
    PoolLoad,
    Reason,
    RequestFacts,
    check_pool,
    decide,
    estimate_prompt_tokens,
    parse_mode,
)

SPECULATIVE, BASELINE = Kind.SPECULATIVE, Kind.BASELINE
UP, DOWN, NONE = PoolLoad(replicas=2, running=4), PoolLoad(replicas=0, running=0), None
SWAMPED = PoolLoad(replicas=1, running=65)
CONFIG = PolicyConfig(
    baseline_share=0.1,
    max_prompt_tokens=2048,
    min_answer_tokens=8,
    max_temperature=1.0,
    grammar=BASELINE,
    logprobs=BASELINE,
)
PROTECTS_NOTHING = CONFIG.model_copy(update={"grammar": SPECULATIVE, "logprobs": SPECULATIVE})

# What makes each rule hold, in the order of precedence: of the request, of the load.
TRIGGERS = {
    Reason.ASKED_OFF: ({"asked": Mode.OFF}, {}, BASELINE),
    Reason.GRAMMAR: ({"needs_grammar": True}, {}, BASELINE),
    Reason.LOGPROBS: ({"needs_logprobs": True}, {}, BASELINE),
    Reason.ONLY_POOL: ({}, {"baseline": NONE}, SPECULATIVE),
    Reason.ASKED_ON: ({"asked": Mode.ON}, {}, SPECULATIVE),
    Reason.KEY_OFF: ({"key_mode": Mode.OFF}, {}, BASELINE),
    Reason.KEY_ON: ({"key_mode": Mode.ON}, {}, SPECULATIVE),
    Reason.BASELINE_BUSY: ({}, {"baseline": SWAMPED}, SPECULATIVE),
    Reason.LONG_PROMPT: ({"prompt_tokens": 2049}, {}, BASELINE),
    Reason.SHORT_ANSWER: ({"max_tokens": 7}, {}, BASELINE),
    Reason.TEMPERATURE: ({"temperature": 1.1}, {}, BASELINE),
    Reason.BATCH_SIZE: ({}, {"speculation_pays": False}, BASELINE),
    Reason.SHARE: ({"draw": 0.0999}, {}, BASELINE),
    Reason.DEFAULT: ({}, {}, SPECULATIVE),
}


def request(**fields):
    return RequestFacts(**{"draw": 0.5, **fields})


def live(**fields):
    return Live(**{"speculative": UP, "baseline": UP, **fields})


@pytest.mark.parametrize("reason", TRIGGERS)
def test_each_rule_alone_decides_with_its_own_reason(reason):
    asks, load, kind = TRIGGERS[reason]
    decision = decide(request(**asks), live(**load), CONFIG)
    assert (decision.kind, decision.reason) == (kind, reason)


def can_both_hold(first, second):
    return not any(TRIGGERS[first][part].keys() & TRIGGERS[second][part].keys() for part in (0, 1))


@pytest.mark.parametrize(("first", "second"), [pair for pair in combinations(TRIGGERS, 2) if can_both_hold(*pair)])
def test_of_two_rules_that_hold_the_earlier_decides(first, second):
    (asks, load, kind), (more_asks, more_load, _) = TRIGGERS[first], TRIGGERS[second]
    decision = decide(request(**more_asks, **asks), live(**more_load, **load), CONFIG)
    assert (decision.kind, decision.reason) == (kind, first)


@pytest.mark.parametrize("reason", Reason)
def test_another_pool_may_serve_what_was_neither_promised_nor_protected_nor_moved_already(reason):
    binding = {Reason.ASKED_OFF, Reason.GRAMMAR, Reason.LOGPROBS, Reason.ONLY_POOL, Reason.FAILOVER, Reason.CAPABILITY}
    decision = Decision(SPECULATIVE, reason)
    assert decision.fallback is (reason not in binding)
    if decision.fallback:
        assert decision.failover() == Decision(BASELINE, Reason.FAILOVER)


def test_every_reason_but_those_of_what_runtimes_can_do_is_in_the_tables():
    assert set(Reason) - set(TRIGGERS) == {Reason.FAILOVER, Reason.CAPABILITY}
    assert Decision(SPECULATIVE, Reason.DEFAULT).only_able() == Decision(BASELINE, Reason.CAPABILITY)


@pytest.mark.parametrize(
    ("asks", "config", "reason"),
    [
        ({"asked": Mode.AUTO, "key_mode": Mode.OFF}, CONFIG, Reason.DEFAULT),
        ({"asked": Mode.ON, "key_mode": Mode.OFF}, CONFIG, Reason.ASKED_ON),
        ({"asked": Mode.OFF, "key_mode": Mode.ON}, CONFIG, Reason.ASKED_OFF),
        ({"needs_grammar": True, "needs_logprobs": True}, PROTECTS_NOTHING, Reason.DEFAULT),
        ({"prompt_tokens": 2048, "max_tokens": 8, "temperature": 1.0, "draw": 0.1}, CONFIG, Reason.DEFAULT),
        ({"prompt_tokens": 10**6, "max_tokens": 1, "temperature": 2.0}, PolicyConfig(), Reason.DEFAULT),
    ],
)
def test_headers_win_over_keys_and_limits_are_inclusive_and_optional(asks, config, reason):
    assert decide(request(**asks), live(), config).reason is reason


@pytest.mark.parametrize(
    ("asks", "speculative", "baseline", "expected"),
    [
        ({}, DOWN, UP, (BASELINE, Reason.FAILOVER)),
        ({}, DOWN, DOWN, (SPECULATIVE, Reason.DEFAULT)),
        ({}, UP, NONE, (SPECULATIVE, Reason.ONLY_POOL)),
        ({}, DOWN, NONE, (SPECULATIVE, Reason.ONLY_POOL)),
        ({}, NONE, UP, (BASELINE, Reason.ONLY_POOL)),
        ({"draw": 0.0}, UP, DOWN, (SPECULATIVE, Reason.FAILOVER)),
        ({"key_mode": Mode.OFF}, UP, DOWN, (SPECULATIVE, Reason.FAILOVER)),
        ({"key_mode": Mode.OFF}, UP, NONE, (SPECULATIVE, Reason.ONLY_POOL)),
        ({"asked": Mode.ON}, DOWN, UP, (BASELINE, Reason.FAILOVER)),
        ({"asked": Mode.ON}, NONE, UP, (BASELINE, Reason.ONLY_POOL)),
        ({"asked": Mode.OFF}, UP, DOWN, (BASELINE, Reason.ASKED_OFF)),
        ({"asked": Mode.OFF}, UP, NONE, (BASELINE, Reason.ASKED_OFF)),
        ({"needs_grammar": True}, UP, DOWN, (BASELINE, Reason.GRAMMAR)),
        ({"needs_logprobs": True}, UP, NONE, (BASELINE, Reason.LOGPROBS)),
        ({"needs_grammar": True, "asked": Mode.ON}, UP, UP, (BASELINE, Reason.GRAMMAR)),
    ],
)
def test_the_other_pool_serves_unless_off_was_promised_or_the_runtime_is_protected(
    asks, speculative, baseline, expected
):
    decision = decide(request(**asks), Live(speculative, baseline), CONFIG)
    assert (decision.kind, decision.reason) == expected


@pytest.mark.parametrize(
    ("speculative", "baseline", "kind"),
    [
        (PoolLoad(8, 8 * 70), PoolLoad(1, 64), BASELINE),
        (PoolLoad(8, 8 * 70), PoolLoad(1, 70), BASELINE),
        (PoolLoad(8, 8 * 70), PoolLoad(1, 71), SPECULATIVE),
        (PoolLoad(8, 0), PoolLoad(1, 64), BASELINE),
        (PoolLoad(8, 0), PoolLoad(1, 65), SPECULATIVE),
    ],
)
def test_a_small_baseline_pool_is_not_swamped_when_speculation_stops_paying(speculative, baseline, kind):
    assert decide(request(), Live(speculative, baseline, speculation_pays=False), CONFIG).kind is kind


@pytest.mark.parametrize(
    ("asks", "param"),
    [
        ({"asked": Mode.OFF}, "x-aerie-speculation"),
        ({"needs_grammar": True}, None),
        ({"needs_logprobs": True}, "logprobs"),
    ],
)
def test_what_only_a_baseline_may_serve_is_refused_where_there_is_none(asks, param):
    situation = live(baseline=NONE)
    with pytest.raises(InvalidRequest, match=r"without speculation.*no such pool") as refusal:
        check_pool(decide(request(**asks), situation, CONFIG), situation)
    assert (refusal.value.status, refusal.value.param, refusal.value.code) == (400, param, "no_baseline_pool")


@pytest.mark.parametrize(("value", "mode"), [(None, None), ("on", Mode.ON), ("off", Mode.OFF), ("auto", Mode.AUTO)])
def test_the_header_asks_for_a_mode(value, mode):
    assert parse_mode(value) is mode


@pytest.mark.parametrize("value", ["", "OFF", "true", "on,off", "x" * 10_000])
def test_any_other_header_is_refused_by_name(value):
    with pytest.raises(InvalidRequest, match="on, off or auto") as refusal:
        parse_mode(value)
    assert refusal.value.param == "x-aerie-speculation"
    assert len(refusal.value.message) < 150


@pytest.mark.parametrize(("size", "prompts", "tokens"), [(0, 1, 0), (1, 1, 1), (4, 1, 1), (5, 1, 2), (800, 2, 100)])
def test_a_prompt_is_estimated_from_the_size_of_its_body(size, prompts, tokens):
    assert estimate_prompt_tokens(size, prompts) == tokens


loads = st.none() | st.builds(PoolLoad, replicas=st.integers(0, 4), running=st.integers(0, 500))
lives = st.builds(Live, speculative=loads, baseline=loads, speculation_pays=st.booleans())
draws = st.floats(0, 1, exclude_max=True)
requests = st.builds(
    RequestFacts,
    draw=draws,
    asked=st.none() | st.sampled_from(Mode),
    key_mode=st.sampled_from(Mode),
    prompt_tokens=st.integers(0, 10**7),
    max_tokens=st.none() | st.integers(1, 10**6),
    temperature=st.floats(0, 2),
    needs_grammar=st.booleans(),
    needs_logprobs=st.booleans(),
)
limits = st.none() | st.integers(1, 10**4)
configs = st.builds(
    PolicyConfig,
    baseline_share=st.floats(0, 1),
    max_prompt_tokens=limits,
    min_answer_tokens=limits,
    max_temperature=st.none() | st.floats(0, 2),
    grammar=st.sampled_from(Kind),
    logprobs=st.sampled_from(Kind),
)


@given(requests, lives, configs)
def test_any_request_gets_a_pool_that_can_serve_it_if_one_may(facts, situation, config):
    decision = decide(facts, situation, config)
    if decision.fallback and not situation.available(decision.kind):
        assert not situation.available(decision.kind.other)


@given(requests, lives, configs)
def test_off_is_never_served_by_speculation_while_a_baseline_is_there(facts, situation, config):
    decision = decide(facts, situation, config)
    if facts.asked is Mode.OFF or ((facts.asked or facts.key_mode) is Mode.OFF and situation.available(BASELINE)):
        assert decision.kind is BASELINE


@given(requests, lives, configs)
def test_what_is_kept_from_speculation_never_meets_it_whatever_the_header_says(facts, situation, config):
    kept = (facts.needs_grammar and config.grammar is BASELINE) or (
        facts.needs_logprobs and config.logprobs is BASELINE
    )
    if kept:
        assert decide(facts, situation, config).kind is BASELINE


@given(requests, lives, configs)
def test_only_a_gateway_without_a_baseline_pool_refuses(facts, situation, config):
    decision = decide(facts, situation, config)
    if decision.kind is SPECULATIVE or situation.baseline is not None:
        check_pool(decision, situation)
    else:
        with pytest.raises(InvalidRequest):
            check_pool(decision, situation)


@given(draws, st.floats(0, 1))
def test_the_baseline_share_is_a_threshold_on_the_draw(draw, share):
    decision = decide(request(draw=draw), live(), PolicyConfig(baseline_share=share))
    assert (decision.kind is BASELINE) is (decision.reason is Reason.SHARE) is (draw < share)


def test_a_share_of_evenly_spread_draws_is_exact():
    config = PolicyConfig(baseline_share=0.02)
    kinds = [decide(request(draw=number / 1000), live(), config).kind for number in range(1000)]
    assert kinds.count(BASELINE) == 20


@pytest.mark.parametrize(
    "fields",
    [
        {"baseline_share": 1.1},
        {"baseline_share": float("nan")},
        {"max_prompt_tokens": "2048"},
        {"max_temperature": 3},
        {"grammar": "draft"},
        {"batch_size": {"off_above": 8, "on_below": 0}},
        {"unknown": 1},
    ],
)
def test_a_policy_out_of_range_is_refused(fields):
    with pytest.raises(ValidationError):
        PolicyConfig.model_validate(fields)


def test_a_policy_is_read_by_name_and_frozen():
    config = PolicyConfig.model_validate({"grammar": "baseline", "batch_size": {"off_above": 8, "on_below": 4}})
    assert config.grammar is BASELINE
    with pytest.raises(ValidationError):
        config.grammar = SPECULATIVE


@pytest.mark.parametrize(("off_above", "on_below"), [(32, 32), (8, 32)])
def test_thresholds_without_a_gap_are_refused_with_one_that_has_it(off_above, on_below):
    with pytest.raises(ValidationError, match=rf"off_above: {off_above} .* use on_below={off_above // 2}"):
        BatchSizeLimits(off_above=off_above, on_below=on_below)
