"""OpenAI's Responses API as far as it needs no memory: what a request may look like.

Owns the strict request model, and the parts of that API which are not served: each is refused at its field, in one
sentence. Refuses to own the conversion (responses.py) and what holds for every chat (protocol.py): the chat request
made of this one is validated too.

Decisions per field: as in protocol.py, unknown fields are refused. Accepted and ignored because they change no answer:
user, safety_identifier, prompt_cache_key, and what an answer's items carry beside the model's words when they are sent
back. `store` is left out by most clients, although its default is true: served, and the answer says `store: false`.
"""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator
from pydantic.json_schema import SkipJsonSchema

from service.capabilities import Feature, RuntimeFacts, decide
from service.gateway.conversation import Effort, Function, FunctionName, Strict, Text
from service.gateway.errors import InvalidRequest
from service.gateway.protocol import JsonObjectFormat, JsonSchema, TextFormat

_ITEM_TYPES = "The types of input items are message, function_call, function_call_output and reasoning."
_NO_MEMORY = "This gateway keeps no conversations: send the earlier items in input, each answer's output included."
_NO_STORE = "This gateway keeps no responses: leave store out, and send an answer's output back in the next input."
_NO_BACKGROUND = "This gateway keeps no responses to be fetched later: leave background out, or stream."
_NO_PROMPTS = "This gateway keeps no prompts: send the text as instructions and input."
_NO_TRUNCATION = "Input that does not fit is refused, never cut: leave truncation out."
_NO_EXTRAS = "Nothing can be added to what an answer carries: leave include out."
_NO_SUMMARY = "Reasoning is not summarised: an answer's reasoning items carry its text."
_NO_LOGPROBS = "Log probabilities are served by /v1/chat/completions."
_NO_BUILT_IN_TOOLS = "There are no built-in tools: only functions are served, which your application runs."
_NO_VERBOSITY = decide(Feature.VERBOSITY, RuntimeFacts()).sentence


def _unsupported(sentence: str, *, but: Any = None, param: str = "") -> BeforeValidator:  # noqa: ANN401 - any JSON
    """Refuses a field, but for null and the one value that is served; `param` is its path, where it has one."""

    def check(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        if value is None or value == but:
            return value
        name = param or info.field_name
        raise InvalidRequest(f"{name}: {sentence}", param=name, code="unsupported_feature")

    return BeforeValidator(check)


def _shallow(schema: dict[str, Any]) -> dict[str, Any]:
    """The answer repeats a schema, some levels further down than it came; orjson writes 254."""
    try:
        orjson.dumps([[[[[[[[schema]]]]]]]])
    except orjson.JSONEncodeError as error:
        raise ValueError("nested too deeply") from error
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_shallow)]
SomeParts = Field(min_length=1, max_length=1024, fail_fast=True)


class InputText(Strict):
    """Text for the model."""

    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """Text of the model. `parsed`: the openai package adds it when a parsed answer is sent back."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class ReasoningText(Strict):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class Item(Strict):
    """What every item of an answer has."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(Item):
    """A message; its type may be left out."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Annotated[InputText | OutputText, Field(discriminator="type")]], SomeParts]


class FunctionCallItem(Item):
    """What the model called."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(Item):
    """What the function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[InputText], SomeParts]


class ReasoningItem(Item):
    """What the model thought before it spoke or called."""

    type: Literal["reasoning"]
    summary: Annotated[list[Any], Field(max_length=0)] | None = None
    content: Annotated[list[ReasoningText], SomeParts]
    encrypted_content: None = None


def _item_type(item: Any) -> str:  # noqa: ANN401 - a validator sees any JSON value
    kind = item.get("type") if isinstance(item, dict) else "none"
    return kind if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[SkipJsonSchema[None], _unsupported(_NO_MEMORY), Tag("item_reference")],
    Discriminator(_item_type, custom_error_type="item_type", custom_error_message=_ITEM_TYPES),
]


class FunctionTool(Function):
    """A function the model may call."""

    type: Annotated[Literal["function"], _unsupported(_NO_BUILT_IN_TOOLS, but="function", param="tools")]
    parameters: Schema | None = None


class FunctionChoice(FunctionName):
    """One function, by name."""

    type: Literal["function"]


class SchemaTextFormat(JsonSchema):
    """A JSON document of a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[Schema, Field(alias="schema")]


class TextConfig(Strict):
    """The answer's form."""

    format: Annotated[TextFormat | JsonObjectFormat | SchemaTextFormat, Field(discriminator="type")] | None = None
    verbosity: Annotated[None, _unsupported(_NO_VERBOSITY, param="text.verbosity")] = None


class Reasoning(Strict):
    """How much to think."""

    effort: Effort | None = None
    summary: Annotated[None, _unsupported(_NO_SUMMARY, param="reasoning.summary")] = None


class ResponseStreamOptions(Strict):
    """What else a stream carries: nothing."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Strict):
    """POST /v1/responses."""

    model: Text
    # at most one item less than a chat's messages: the instructions become one
    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=16_383, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    return_spec_tokens_details: bool | None = None  # SGLang's extension

    # accepted and ignored; metadata comes back in the answer
    metadata: Annotated[dict[str, str], Field(max_length=16, fail_fast=True)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None

    # accepted only in values that ask for nothing
    previous_response_id: Annotated[None, _unsupported(_NO_MEMORY)] = None
    conversation: Annotated[None, _unsupported(_NO_MEMORY)] = None
    prompt: Annotated[None, _unsupported(_NO_PROMPTS)] = None
    store: Annotated[Literal[False] | None, _unsupported(_NO_STORE, but=False)] = None
    background: Annotated[Literal[False] | None, _unsupported(_NO_BACKGROUND, but=False)] = None
    truncation: Annotated[Literal["disabled"] | None, _unsupported(_NO_TRUNCATION, but="disabled")] = None
    include: Annotated[Annotated[list[None], Field(max_length=0)] | None, _unsupported(_NO_EXTRAS, but=[])] = None
    top_logprobs: Annotated[None, _unsupported(_NO_LOGPROBS)] = None
    max_tool_calls: Annotated[None, _unsupported(_NO_BUILT_IN_TOOLS)] = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        called: set[str] = set()
        for item in self.input if isinstance(self.input, list) else ():
            if isinstance(item, FunctionCallItem):
                called.add(item.call_id)
            elif isinstance(item, FunctionCallOutputItem) and item.call_id not in called:
                raise ValueError(f"input: no function_call {item.call_id[:64]!r} comes before its output. {_NO_MEMORY}")
        return self
