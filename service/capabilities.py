"""Which request features a runtime honours: one table by SGLang version, speculation algorithm and device.

Owns `Feature`, the facts about a runtime that decide (`RuntimeFacts`) and the table. Refuses to own the request's
shape (the gateway's protocol), the start of a runtime, and guesses: every row names where it was read or measured.
Rows tagged "measured" were tried on SGLang 0.5.23, CPU, EAGLE3 3/4/8; paths are below `sglang/srt/`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

TESTED_VERSION = "0.5.23"

_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Feature(StrEnum):
    """A thing a request can ask for, beyond plain text in and out. Values are request fields where one decides."""

    TEMPERATURE = "temperature"
    TOP_K = "top_k"
    MIN_P = "min_p"
    SEED = "seed"
    SEED_WITH_N = "seed+n"
    N = "n"
    PENALTIES = "penalties"
    LOGIT_BIAS = "logit_bias"
    LOGPROBS = "logprobs"
    ECHO_WITH_LOGPROBS = "echo+logprobs"
    STOP = "stop"
    STOP_REGEX = "stop_regex"
    MIN_TOKENS = "min_tokens"
    MIN_TOKENS_WITH_STOP_TOKEN_IDS = "min_tokens+stop_token_ids"  # noqa: S105 - no password
    IGNORE_EOS = "ignore_eos"
    STRUCTURED_OUTPUT = "response_format"
    TOOLS = "tools"
    REASONING_EFFORT = "reasoning_effort"
    PROMPT_TOKEN_IDS = "prompt"  # noqa: S105 - no password
    HIDDEN_STATES = "return_hidden_states"
    BEST_OF = "best_of"
    SUFFIX = "suffix"
    LEGACY_FUNCTIONS = "functions"
    AUDIO = "audio"
    MODALITIES = "modalities"
    PREDICTION = "prediction"
    WEB_SEARCH = "web_search_options"
    VERBOSITY = "verbosity"
    LORA = "lora_path"
    LOGIT_PROCESSOR = "custom_logit_processor"

    @property
    def param(self) -> str:
        """The request field an error about this feature points at."""
        return self.value.partition("+")[0]


class Support(StrEnum):
    """How far a runtime honours a feature; relaxed: it works, with a stated caveat."""

    SUPPORTED = "supported"
    RELAXED = "relaxed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What decides: read from a running SGLang, or known before its start."""

    version: str = TESTED_VERSION
    algorithm: str = "NONE"
    device: str = "cpu"
    deterministic: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None

    @property
    def speculative(self) -> bool:
        """Whether tokens are drafted and verified."""
        return self.algorithm != "NONE"

    @property
    def honours_seed(self) -> bool:
        """Aerie's CPU runtime always does; stock SGLang only with deterministic inference."""
        return self.device == "cpu" or self.deterministic

    def is_older_than(self, version: str) -> bool:
        """By release number; what has none is a build of somebody's own, and taken for new."""
        ours, theirs = _RELEASE.match(self.version), _RELEASE.match(version)
        if ours is None or theirs is None:
            return False
        return tuple(map(int, ours.groups())) < tuple(map(int, theirs.groups()))


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the first row of a feature whose `when` holds decides.

    `sentence` goes into the 400 of a refusal, or states the caveat. `source` is where it was read or measured.
    """

    feature: Feature
    support: Support
    source: str
    sentence: str = ""
    when: Callable[[RuntimeFacts], bool] = lambda _: True


def _speculative(facts: RuntimeFacts) -> bool:
    return facts.speculative


def _speculative_and_untested(facts: RuntimeFacts) -> bool:
    return facts.speculative and facts.is_older_than(TESTED_VERSION)


def _stock_verification(facts: RuntimeFacts) -> bool:
    return facts.speculative and facts.device != "cpu"


OK, RELAXED, REFUSED = Support.SUPPORTED, Support.RELAXED, Support.REFUSED
MEASURED = "measured on 0.5.23, cpu, EAGLE3 3/4/8"

TABLE: tuple[Rule, ...] = (
    Rule(Feature.TEMPERATURE, OK, "speculative/eagle_utils.py eagle_sample; service/runtime/cpu/sampling.py"),
    Rule(
        Feature.TOP_K,
        RELAXED,
        "speculative/eagle_utils.py eagle_sample; layers/sampler.py filter_apply_order joint",
        "Together with top_p: verification applies one after the other, plain decoding both at once.",
        _stock_verification,
    ),
    Rule(Feature.TOP_K, OK, MEASURED),
    Rule(
        Feature.MIN_P,
        REFUSED,
        "speculative/eagle_utils.py eagle_sample renormalises by top_k and top_p only",
        "min_p is ignored by this runtime's speculative verification on a GPU; leave it out, or use top_p.",
        _stock_verification,
    ),
    Rule(
        Feature.MIN_P,
        REFUSED,
        "layers/sampler.py asserts sampling_seed is None under min_p: the assertion ends the scheduler",
        "min_p cannot be used while the runtime runs with --enable-deterministic-inference.",
        lambda facts: facts.device != "cpu" and facts.deterministic,
    ),
    Rule(Feature.MIN_P, OK, MEASURED),
    Rule(
        Feature.SEED,
        REFUSED,
        "sampling/sampling_batch_info.py drops sampling_seed unless enable_deterministic_inference",
        "This runtime ignores seed unless it is started with --enable-deterministic-inference.",
        lambda facts: not facts.honours_seed,
    ),
    Rule(Feature.SEED, OK, "service/runtime/cpu; layers/sampler.py multinomial_with_seed"),
    Rule(
        Feature.SEED_WITH_N,
        REFUSED,
        "managers/tokenizer_manager.py copies one sampling_seed to all n samples",
        "seed with n > 1 gives n identical choices; send n requests with different seeds instead.",
    ),
    Rule(Feature.N, OK, MEASURED),
    Rule(
        Feature.PENALTIES,
        RELAXED,
        'speculative/eagle_utils.py eagle_sample: "a relaxed version of penalties"',
        "Penalties are those of the verify pass's start: tokens accepted within one pass do not yet penalise one "
        "another, so output can differ from plain decoding.",
        _speculative,
    ),
    Rule(Feature.PENALTIES, OK, MEASURED),
    Rule(Feature.LOGIT_BIAS, OK, MEASURED),
    Rule(
        Feature.LOGPROBS,
        REFUSED,
        "sgl-project/sglang#17349, #19761: earlier versions crash, or leave out accepted drafts",
        f"Log probabilities under speculation are served from SGLang {TESTED_VERSION} on; this runtime is older.",
        _speculative_and_untested,
    ),
    Rule(Feature.LOGPROBS, OK, MEASURED),
    Rule(
        Feature.ECHO_WITH_LOGPROBS,
        REFUSED,
        "entrypoints/openai/serving_completions.py: echo is not compatible with logprobs",
        "echo cannot be combined with logprobs: SGLang does not compute the prompt's logprobs here.",
    ),
    Rule(Feature.STOP, OK, MEASURED),
    Rule(
        Feature.STOP_REGEX,
        RELAXED,
        "managers/schedule_batch.py runs re.search in the scheduler's process",
        "A slow pattern slows every request of the runtime; nested repeats are refused.",
    ),
    Rule(Feature.MIN_TOKENS, OK, MEASURED),
    Rule(
        Feature.MIN_TOKENS_WITH_STOP_TOKEN_IDS,
        REFUSED,
        "measured on 0.5.23: an id outside the vocabulary is used as an index and ends the scheduler",
        "min_tokens cannot be combined with stop_token_ids: an id outside the vocabulary stops the runtime.",
    ),
    Rule(Feature.IGNORE_EOS, OK, MEASURED),
    Rule(
        Feature.STRUCTURED_OUTPUT,
        REFUSED,
        "sgl-project/sglang#24283, #15050: in earlier versions a constrained answer ends the scheduler",
        "Constrained answers (also by regex, ebnf and forced tool calls) under speculation are served from SGLang "
        f"{TESTED_VERSION} on; this runtime is older.",
        _speculative_and_untested,
    ),
    Rule(Feature.STRUCTURED_OUTPUT, OK, MEASURED),
    Rule(
        Feature.TOOLS,
        REFUSED,
        "/model_info tool_call_parser; without one the answer is raw text, measured",
        "This runtime has no tool call parser: start it with --tool-call-parser and the model's parser.",
        lambda facts: facts.tool_call_parser is None,
    ),
    Rule(
        Feature.TOOLS,
        RELAXED,
        f"{MEASURED}, parser hermes; function_call/function_call_parser.py get_structure_constraint",
        "Some parsers hold a call's arguments to the function's schema only where the function says strict: true.",
    ),
    Rule(
        Feature.REASONING_EFFORT,
        REFUSED,
        "/model_info reasoning_parser; entrypoints/openai/protocol.py normalize_reasoning_inputs",
        "This runtime serves no reasoning model: start it with --reasoning-parser and the model's parser.",
        lambda facts: facts.reasoning_parser is None,
    ),
    Rule(Feature.REASONING_EFFORT, OK, "entrypoints/openai/protocol.py normalize_reasoning_inputs"),
    Rule(
        Feature.PROMPT_TOKEN_IDS,
        REFUSED,
        "measured on 0.5.23: an id outside the vocabulary in a prompt ends the scheduler",
        "Prompts of token ids are not accepted: an id outside the vocabulary stops the runtime. Send text.",
    ),
    Rule(Feature.HIDDEN_STATES, REFUSED, "entrypoints/openai/protocol.py", "Hidden states are not returned."),
    Rule(
        Feature.BEST_OF,
        REFUSED,
        "entrypoints/openai/serving_completions.py never reads it",
        "best_of is not implemented by SGLang; use n.",
    ),
    Rule(
        Feature.SUFFIX,
        REFUSED,
        "entrypoints/openai/serving_completions.py: read by code-completion templates only",
        "suffix is ignored by this model's template; put the text into the prompt.",
    ),
    Rule(Feature.LEGACY_FUNCTIONS, REFUSED, "OpenAI API reference: deprecated", "functions is replaced by tools."),
    Rule(Feature.AUDIO, REFUSED, "/model_info has_audio_understanding", "The served model is text only."),
    Rule(Feature.MODALITIES, REFUSED, "/model_info", "The served model is text only; leave modalities out."),
    Rule(
        Feature.PREDICTION,
        REFUSED,
        "entrypoints/openai/protocol.py has no such field",
        "Predicted outputs are not supported; drafting is set by the runtime's speculation settings.",
    ),
    Rule(Feature.WEB_SEARCH, REFUSED, "entrypoints/openai/protocol.py has no such field", "There is no web search."),
    Rule(Feature.VERBOSITY, REFUSED, "entrypoints/openai/protocol.py has no such field", "verbosity has no effect."),
    Rule(Feature.LORA, REFUSED, "not part of Aerie's API", "Adapters are not served."),
    Rule(Feature.LOGIT_PROCESSOR, REFUSED, "runs pickled code in the scheduler", "Client code is never run."),
)


def decide(feature: Feature, facts: RuntimeFacts) -> Rule:
    """The row that holds for this feature on this runtime."""
    return next(rule for rule in TABLE if rule.feature is feature and rule.when(facts))


def first_refusal(features: Iterable[Feature], facts: RuntimeFacts) -> Rule | None:
    """The first feature this runtime must not be asked for, in the table's order; None when all are fine."""
    asked = frozenset(features)
    if not asked:
        return None
    rules = (decide(feature, facts) for feature in Feature if feature in asked)
    return next((rule for rule in rules if rule.support is Support.REFUSED), None)
