"""Tokenize and detokenize, in SGLang's words: what a request may look like.

Owns the strict request models. Refuses to own what holds for every conversation (conversation.py). SGLang takes unknown
fields here and makes a chat request of them; this gateway takes none.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.capabilities import Feature
from service.gateway.conversation import (
    ChatTemplateKwargs,
    Effort,
    Message,
    Strict,
    Text,
    Tool,
    ToolChoice,
    check_tools,
)

Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
"""An id outside the vocabulary decodes to nothing; a negative one, or one above 32 bits, is an error in SGLang."""

_OF_MESSAGES = (
    "tools",
    "tool_choice",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)


class TokenizeRequest(Strict):
    """POST /v1/tokenize: a text, some texts, or a conversation as the model's template writes it."""

    model: Text
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1024, fail_fast=True)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=16_384, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None

    # with messages
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @property
    def prompt_param(self) -> str:
        """The field that holds what is to be tokenized."""
        return "prompt" if self.messages is None else "messages"

    @property
    def tokens_known(self) -> int | None:
        """How many there are is what is asked."""
        return None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: send either prompt or messages")
        if self.prompt is not None:
            for field in _OF_MESSAGES:
                if getattr(self, field) is not None:
                    raise ValueError(f"{field}: only allowed with messages")
        if self.continue_final_message and self.add_generation_prompt is False:
            raise ValueError("continue_final_message: needs add_generation_prompt")
        check_tools(self.tools, self.tool_choice)
        return self

    def features(self) -> Iterator[Feature]:
        """What a conversation asks of the runtime."""
        if self.tools:
            yield Feature.TOOLS
        if self.reasoning_effort is not None:
            yield Feature.REASONING_EFFORT


class DetokenizeRequest(Strict):
    """POST /v1/detokenize: the text of token ids, or the texts of several lists."""

    model: Text
    tokens: Tokens | Annotated[list[Tokens], Field(max_length=1024, fail_fast=True)]
    skip_special_tokens: bool | None = None

    @property
    def prompt_param(self) -> str:
        """The field that holds what is to be decoded."""
        return "tokens"

    @property
    def tokens_known(self) -> int:
        """How many there are."""
        return sum(len(part) if isinstance(part, list) else 1 for part in self.tokens)

    def features(self) -> Iterator[Feature]:
        """Nothing beyond the tokenizer."""
        return iter(())
