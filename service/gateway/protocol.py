"""OpenAI's words, and the extensions of SGLang that this gateway passes on: what a request may look like.

Owns the strict models of what generates, and which capabilities a request asks for. Refuses to own what a conversation
may hold (conversation.py), parsing (parse.py) and defaults: what a client leaves out stays out, and the document, not
the model, goes upstream.

Decisions per field: a field nobody reads would change what the client meant, so unknown fields are refused. Accepted
and ignored because they change no answer: user, safety_identifier, prompt_cache_key, metadata, a message's name;
store and service_tier only in the values that ask for nothing.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from service.capabilities import Feature
from service.gateway.conversation import (
    ChatTemplateKwargs,
    Effort,
    Message,
    Name,
    Strict,
    Text,
    Tool,
    ToolChoice,
    bounded,
    check_tools,
)
from service.gateway.patterns import check_stop_regex

MAX_STOPS = 32
"""SGLang's bound (sampling_params.py); OpenAI's is 4. Refusing what the runtime does well would help nobody."""

IGNORED = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata", "store", "service_tier"})
"""Accepted, not sent upstream."""

TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(bounded),
    Field(json_schema_extra={"additionalProperties": False}),
]
StopRegex = Annotated[str, Field(min_length=1, max_length=256), BeforeValidator(check_stop_regex)]


class StreamOptions(Strict):
    """What else a stream carries."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    """A schema the answer must follow."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Strict):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """A JSON document of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class Generation(Strict):
    """What chat completions and completions share."""

    model: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: ResponseFormat | None = None

    # accepted and ignored
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(bounded)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    # SGLang's extensions. top_k: a larger one overflows int32 and ends the scheduler.
    top_k: Literal[-1] | Annotated[int, Field(ge=1, le=2**30)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=1024, fail_fast=True)] | None
    ) = None
    stop_regex: StopRegex | Annotated[list[StopRegex], Field(max_length=MAX_STOPS)] | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    regex: Text | None = None
    ebnf: Text | None = None
    return_spec_tokens_details: bool | None = None

    @property
    def token_limit(self) -> tuple[str, int] | None:
        """The field that bounds the answer and its value."""
        return None if self.max_tokens is None else ("max_tokens", self.max_tokens)

    @property
    def needs_grammar(self) -> bool:
        """Whether the runtime must constrain the answer."""
        json_format = None if isinstance(self.response_format, TextFormat) else self.response_format
        return json_format is not None or self.regex is not None or self.ebnf is not None

    @property
    def needs_logprobs(self) -> bool:
        """Whether the answer carries log-probabilities."""
        return False

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage event of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        if self.min_tokens and self.token_limit and self.min_tokens > self.token_limit[1]:
            raise ValueError(f"min_tokens: must not exceed {self.token_limit[0]}")
        json_format = None if isinstance(self.response_format, TextFormat) else self.response_format
        if (json_format, self.regex, self.ebnf).count(None) < 2:
            raise ValueError("response_format: only one of response_format, regex and ebnf can constrain an answer")
        return self

    def features(self) -> set[Feature]:
        """What this request asks of the runtime beyond text in and out."""
        asked = set()
        if self.min_p:
            asked.add(Feature.MIN_P)
        if self.seed is not None:
            asked.add(Feature.SEED)
            if (self.n or 1) > 1:
                asked.add(Feature.SEED_WITH_N)
        if self.needs_logprobs:
            asked.add(Feature.LOGPROBS)
        if self.stop_regex:
            asked.add(Feature.STOP_REGEX)
        if self.min_tokens and self.stop_token_ids:
            asked.add(Feature.MIN_TOKENS_WITH_STOP_TOKEN_IDS)
        if self.needs_grammar:
            asked.add(Feature.STRUCTURED_OUTPUT)
        return asked


class ChatCompletionRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=16_384, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    continue_final_message: bool | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None

    @property
    def token_limit(self) -> tuple[str, int] | None:
        """max_completion_tokens, else its older name."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().token_limit

    @property
    def needs_grammar(self) -> bool:
        """Forced and strict tool calls are constrained too."""
        forced = self.tool_choice not in (None, "none", "auto")
        strict = self.tools is not None and any(tool.function.strict for tool in self.tools)
        return forced or strict or super().needs_grammar

    @property
    def needs_logprobs(self) -> bool:
        """As a switch."""
        return bool(self.logprobs)

    @model_validator(mode="after")
    def _is_a_consistent_chat(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_completion_tokens: differs from max_tokens, its older name; send one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        check_tools(self.tools, self.tool_choice)
        return self

    def features(self) -> set[Feature]:
        """Those of any generation, and tools and reasoning."""
        asked = super().features()
        if self.tools:
            asked.add(Feature.TOOLS)
        if self.reasoning_effort is not None:
            asked.add(Feature.REASONING_EFFORT)
        return asked


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=128)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def needs_logprobs(self) -> bool:
        """As a number, which may be 0."""
        return self.logprobs is not None

    def features(self) -> set[Feature]:
        """Those of any generation, and echo."""
        asked = super().features()
        if self.echo and self.logprobs is not None:
            asked.add(Feature.ECHO_WITH_LOGPROBS)
        return asked
