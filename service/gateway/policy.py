"""Which pool serves a request: the one that speculates, or the baseline, the same target without a draft.

Owns the mode a client asks for by header and the order of the rules (`decide`, a pure function). Refuses to own pools
and the choice of a replica, whether speculation pays at today's load (throttle.py), the request's shape and the
metrics: whoever calls brings facts and counts `reason`. SGLang cannot turn speculation off for one request, so a choice
per request is a choice of the pool (sgl-project/sglang#9319, #30263).

`off` and `on` are not mirror images. Who sends `off` measures, or works around a bug: speculation never serves it, and
without a baseline pool it is refused, since a silent "on" would falsify the one and undo the other. Who sends `on`
wants speed: it overrules every rule about what pays, not those that protect the runtime, and where nothing can
speculate, a plain answer now beats a 503. What an operator set as a key's default gives way to availability.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from service.gateway.errors import InvalidRequest
from service.gateway.strict_yaml import Section

MODE_HEADER = "x-aerie-speculation"
POOL_HEADER = "x-aerie-pool"

BYTES_PER_TOKEN = 4
"""Measured with SmolLM2's tokenizer on whole bodies: 3.5 to 4.9 for prose, problems and code, 2.3 for dense JSON."""


class Mode(StrEnum):
    """What is asked for: by the header, else by the key's default."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


class Kind(StrEnum):
    """A kind of pool."""

    SPECULATIVE = "speculative"
    BASELINE = "baseline"

    @property
    def other(self) -> "Kind":
        """The other one."""
        return Kind.BASELINE if self is Kind.SPECULATIVE else Kind.SPECULATIVE


class Reason(StrEnum):
    """Why a request went where it went: a closed set, fit for a label."""

    ASKED_OFF = "asked_off"
    GRAMMAR = "grammar"
    LOGPROBS = "logprobs"
    ONLY_POOL = "only_pool"
    ASKED_ON = "asked_on"
    KEY_OFF = "key_off"
    KEY_ON = "key_on"
    BASELINE_BUSY = "baseline_busy"
    LONG_PROMPT = "long_prompt"
    SHORT_ANSWER = "short_answer"
    TEMPERATURE = "temperature"
    BATCH_SIZE = "batch_size"
    SHARE = "share"
    DEFAULT = "default"
    FAILOVER = "failover"
    CAPABILITY = "capability"


BINDING = frozenset(
    {Reason.ASKED_OFF, Reason.GRAMMAR, Reason.LOGPROBS, Reason.ONLY_POOL, Reason.FAILOVER, Reason.CAPABILITY}
)
"""Decisions that no other pool may serve: promised, unsafe elsewhere, or there is no other."""

_REFUSALS = {
    Reason.ASKED_OFF: (MODE_HEADER, f"{MODE_HEADER}: off needs a pool without speculation; leave the header out."),
    Reason.GRAMMAR: (None, "Constrained answers are served without speculation only."),
    Reason.LOGPROBS: ("logprobs", "logprobs: served without speculation only."),
}

PoolName = Annotated[Kind, Field(strict=False)]
"""A kind by its name, as configuration writes it."""


class BatchSizeLimits(Section):
    """Between which batch sizes speculation pays; 64 is where SGLang's own adaptive depth stops drafting."""

    off_above: float = Field(default=64, gt=0)
    """Speculation stops above this batch size."""
    on_below: float = Field(default=32, gt=0)
    """It starts again below this one."""
    dwell_s: float = Field(default=30, ge=0)
    """No switch sooner than this after the one before."""

    @model_validator(mode="after")
    def _leaves_a_gap(self) -> Self:
        if self.off_above <= self.on_below:
            raise ValueError(
                f"off_above: {self.off_above:g} must be greater than on_below={self.on_below:g}, or the load of one "
                f"request switches speculation back and forth; use on_below={self.off_above / 2:g}"
            )
        return self


class PolicyConfig(Section):
    """When the baseline serves what nobody decided by header or key. None: no limit."""

    baseline_share: float = Field(default=0.02, ge=0, le=1)
    """Of the requests that would speculate, the share that the baseline serves: it measures the live speedup."""
    batch_size: BatchSizeLimits = BatchSizeLimits()
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Estimated tokens; beyond the lengths a draft was trained on its acceptance falls."""
    min_answer_tokens: int | None = Field(default=None, ge=1)
    """A max_tokens below this leaves too little to draft."""
    max_temperature: float | None = Field(default=None, ge=0, le=2)
    """Acceptance falls as the temperature rises."""
    grammar: PoolName = Kind.SPECULATIVE
    """Where constrained answers go; baseline protects a runtime that they crash under speculation."""
    logprobs: PoolName = Kind.SPECULATIVE
    """Where requests with logprobs go; as for grammar."""


class RequestFacts(NamedTuple):
    """What a decision reads of a request. `draw` is uniform in [0, 1): the caller's dice, never the client's."""

    draw: float
    asked: Mode | None = None
    key_mode: Mode = Mode.AUTO
    prompt_tokens: int = 0
    max_tokens: int | None = None
    temperature: float = 1.0
    needs_grammar: bool = False
    needs_logprobs: bool = False

    @property
    def mode(self) -> Mode:
        """What is asked for, or else the key's default."""
        return self.asked or self.key_mode


class PoolLoad(NamedTuple):
    """A pool now: replicas that take requests (ready, breaker closed) and the requests running on these."""

    replicas: int
    running: int

    @property
    def batch_size(self) -> float:
        """Per replica; a pool without any counts as one."""
        return self.running / max(1, self.replicas)

    def with_other(self, other: "PoolLoad") -> "PoolLoad":
        """Of two pools together."""
        return PoolLoad(self.replicas + other.replicas, self.running + other.running)


class Live(NamedTuple):
    """The pools now; None: this gateway has no such pool. `speculation_pays` is the throttle's."""

    speculative: PoolLoad | None
    baseline: PoolLoad | None
    speculation_pays: bool = True

    def available(self, kind: Kind) -> bool:
        """Whether a replica of this kind takes requests."""
        load = self.speculative if kind is Kind.SPECULATIVE else self.baseline
        return load is not None and load.replicas > 0

    def baseline_is_busy(self, limit: float) -> bool:
        """Over the limit and busier than the other pool: more requests there would cost more than speculation does."""
        if self.speculative is None or self.baseline is None:
            return False
        return self.baseline.batch_size > max(limit, self.speculative.batch_size)


class Decision(NamedTuple):
    """A pool and why."""

    kind: Kind
    reason: Reason

    @property
    def fallback(self) -> bool:
        """Whether the other kind may serve when no replica of this one can."""
        return self.reason not in BINDING

    def only_able(self) -> "Decision":
        """The other kind, because this one's runtimes cannot serve such a request."""
        return Decision(self.kind.other, Reason.CAPABILITY)

    def failover(self) -> "Decision":
        """The other kind, because this one cannot serve; only where `fallback` allows it."""
        assert self.fallback
        return Decision(self.kind.other, Reason.FAILOVER)


def decide(request: RequestFacts, live: Live, config: PolicyConfig) -> Decision:
    """The pool for a request: what the rules prefer, or the other where that one is down and nothing forbids it."""
    preferred = _preferred(request, live, config)
    can_move = preferred.fallback and not live.available(preferred.kind) and live.available(preferred.kind.other)
    return preferred.failover() if can_move else preferred


def _preferred(request: RequestFacts, live: Live, config: PolicyConfig) -> Decision:
    """The first rule that holds."""
    for holds, kind, reason in _RULES:
        if holds(request, live, config):
            return Decision(kind, reason)
    raise AssertionError("the last one always does")


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


_Rule = tuple[Callable[[RequestFacts, Live, PolicyConfig], bool], Kind, Reason]

# r: the request, c: the configuration. The share comes last, so that both its arms are drawn from the same requests.
_RULES: tuple[_Rule, ...] = (
    # promises, and what protects the runtime
    (lambda r, _live, _c: r.asked is Mode.OFF, Kind.BASELINE, Reason.ASKED_OFF),
    (lambda r, _live, c: r.needs_grammar and c.grammar is Kind.BASELINE, Kind.BASELINE, Reason.GRAMMAR),
    (lambda r, _live, c: r.needs_logprobs and c.logprobs is Kind.BASELINE, Kind.BASELINE, Reason.LOGPROBS),
    (lambda _r, live, _c: live.baseline is None, Kind.SPECULATIVE, Reason.ONLY_POOL),
    (lambda _r, live, _c: live.speculative is None, Kind.BASELINE, Reason.ONLY_POOL),
    # what somebody chose
    (lambda r, _live, _c: r.asked is Mode.ON, Kind.SPECULATIVE, Reason.ASKED_ON),
    (lambda r, _live, _c: r.mode is Mode.OFF, Kind.BASELINE, Reason.KEY_OFF),
    (lambda r, _live, _c: r.mode is Mode.ON, Kind.SPECULATIVE, Reason.KEY_ON),
    # what pays
    (lambda _r, live, c: live.baseline_is_busy(c.batch_size.off_above), Kind.SPECULATIVE, Reason.BASELINE_BUSY),
    (lambda r, _live, c: _above(r.prompt_tokens, c.max_prompt_tokens), Kind.BASELINE, Reason.LONG_PROMPT),
    (lambda r, _live, c: _above(c.min_answer_tokens, r.max_tokens), Kind.BASELINE, Reason.SHORT_ANSWER),
    (lambda r, _live, c: _above(r.temperature, c.max_temperature), Kind.BASELINE, Reason.TEMPERATURE),
    (lambda _r, live, _c: not live.speculation_pays, Kind.BASELINE, Reason.BATCH_SIZE),
    (lambda r, _live, c: r.draw < c.baseline_share, Kind.BASELINE, Reason.SHARE),
    (lambda *_: True, Kind.SPECULATIVE, Reason.DEFAULT),
)


def check_pool(decision: Decision, live: Live) -> None:
    """Whether this gateway has the pool that `decide` chose with this `live`; one that is only down is a 503 elsewhere.

    Raises:
        InvalidRequest: only a baseline pool may serve this request, and there is none.
    """
    if live.baseline is None and decision.kind is Kind.BASELINE:
        param, message = _REFUSALS[decision.reason]
        raise InvalidRequest(f"{message} This gateway has no such pool.", param=param, code="no_baseline_pool")


def parse_mode(value: str | None) -> Mode | None:
    """The mode of an `x-aerie-speculation` header; None where it was not sent.

    Raises:
        InvalidRequest: anything but on, off and auto.
    """
    if value is None:
        return None
    try:
        return Mode(value)
    except ValueError:
        message = f"{MODE_HEADER}: must be on, off or auto, not {value[:50]!r}."
        raise InvalidRequest(message, param=MODE_HEADER, code="invalid_value") from None


def estimate_prompt_tokens(body_bytes: int, prompts: int = 1) -> int:
    """Tokens per prompt, from the size of the body that goes upstream: no text is read.

    The JSON around a message stands for what the chat template puts there. A byte-level tokenizer makes at most one
    token of a byte, so the truth is at most about 4 times this: 3.6 for digits, 2.2 for Chinese (SmolLM2, a small
    vocabulary), within a quarter for prose and code.
    """
    return -(-body_bytes // (BYTES_PER_TOKEN * prompts))
