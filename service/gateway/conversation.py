"""What a conversation may hold: messages, tools and the template's switches, whatever it is sent for.

Owns the strict base of every request model and the parts that requests share. Refuses to own requests (protocol.py,
responses_protocol.py, tokens_protocol.py).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_KEYS = 1024
"""Of any JSON object that is checked key by key: pydantic would report a million unknown fields one by one."""


def bounded(value: Any) -> Any:  # noqa: ANN401 - a validator sees any JSON value
    """The value, unless it is an object with too many keys."""
    if isinstance(value, dict) and len(value) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    return value


class Strict(BaseModel):
    """No unknown field, no coercion, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    _is_bounded = model_validator(mode="before")(bounded)


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(Strict):
    """The only content part of a text model."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1, max_length=1024, fail_fast=True)]


class FunctionCall(Strict):
    """What the model called."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call in an assistant message of the history."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class InstructionMessage(Strict):
    """From the application."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    """From the user."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Strict):
    """From the model. Fields that hold null in every answer are accepted as null, so answers can be sent back."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("an assistant message needs content or tool_calls")
        return self


class ToolMessage(Strict):
    """What a tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Message = Annotated[InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Strict):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool: functions only."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """Which function."""

    name: Name


class ToolChoice(Strict):
    """One tool, by name."""

    type: Literal["function"]
    function: FunctionName


class ChatTemplateKwargs(Strict):
    """Switches of reasoning templates. Anything else could replace the template itself, so nothing else is taken."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
"""How much a reasoning model thinks."""


def check_tools(tools: list[Tool] | None, choice: str | ToolChoice | None) -> None:
    """Whether tools can be told apart, and the choice is one of them.

    Raises:
        ValueError: not so.
    """
    if tools is None and choice is None:
        return
    names = [tool.function.name for tool in tools or ()]
    if len(set(names)) != len(names):
        raise ValueError("tools: two tools have the same name")
    if not names and choice not in (None, "none"):
        raise ValueError("tool_choice: needs tools")
    if isinstance(choice, ToolChoice) and choice.function.name not in names:
        raise ValueError("tool_choice: names a function that is not among tools")
