"""What answers look like, for the OpenAPI document: the fields clients rely on, by the names OpenAI gave them.

Owns these models; no answer is checked against them at run time. Refuses to own requests (protocol.py) and errors
(errors.py). Where a runtime sends more, it is passed on.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class SpeculationBlock(_Answer):
    """Acceptance figures of one answer. `accepted_by_position[i]`: passes that accepted the draft at position i + 1."""

    acceptance_length: float | None
    verify_passes: int
    proposed_drafts: int
    accepted_drafts: int
    accepted_by_position: list[int]


class UsageBlock(_Answer):
    """Tokens of one answer. `speculation`: only when asked for; null where nothing is known of it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    speculation: SpeculationBlock | None = None


class AnswerMessage(_Answer):
    """What the model said or called."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(_Answer):
    """One of `n`."""

    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatCompletion(_Answer):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBlock


class TextChoice(_Answer):
    """One of `n`, for each prompt."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class Completion(_Answer):
    """A text, continued."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBlock


class ResponseUsage(_Answer):
    """Tokens of one response."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    speculation: SpeculationBlock | None = None


class ResponseObject(_Answer):
    """The answer of the Responses API."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None


class ModelCard(_Answer):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(_Answer):
    """The models that the key may use."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokenized(_Answer):
    """Token ids and their number; for several texts a list of each."""

    tokens: list[int] | list[list[int]]
    count: int | list[int]
    max_model_len: int


class Detokenized(_Answer):
    """The text, or the texts of several lists."""

    text: str | list[str]


class Health(_Answer):
    """`reason`: why no request can be served; `not_ready`: which replicas take none, and why."""

    status: Literal["ok", "unavailable"]
    reason: str | None = None
    not_ready: dict[str, str] | None = None


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error body."""

    error: ErrorDetail
