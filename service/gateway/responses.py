"""From a request of the Responses API to the chat completion that answers it.

Owns the conversion of requests, and of the names of fields in errors. Refuses to own a request's shape
(responses_protocol.py), the way back (responses_output.py) and I/O.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from service.gateway.errors import GatewayError
from service.gateway.parse import Document
from service.gateway.responses_protocol import (
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionChoice,
    FunctionTool,
    InputItem,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponsesRequest,
    SchemaTextFormat,
)

_OUR_WORDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of a chat request, by the names they have here."""


def chat_document(request: ResponsesRequest) -> Document:
    """The chat completion to ask for. What the client left out stays out."""
    return _without_nulls(
        model=request.model,
        messages=list(_messages(request)),
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stream=request.stream,
        tools=[_tool(tool) for tool in request.tools or ()] or None,
        tool_choice=_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format(request),
        reasoning_effort=request.reasoning and request.reasoning.effort,
        return_spec_tokens_details=request.return_spec_tokens_details,
    )


def renamed(error: GatewayError) -> GatewayError:
    """An error about the chat request, as one about the client's."""
    theirs = error.param or ""
    ours = _OUR_WORDS.get(theirs, theirs)
    message = ours + error.message.removeprefix(theirs) if error.message.startswith(f"{theirs}: ") else error.message
    return type(error)(message, param=ours or None, code=error.code, retry_after_s=error.retry_after_s)


def _without_nulls(**fields: Any) -> Document:  # noqa: ANN401 - any JSON value
    return {name: value for name, value in fields.items() if value is not None}


def _tool(tool: FunctionTool) -> Document:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _tool_choice(request: ResponsesRequest) -> Document | str | None:
    choice = request.tool_choice
    if isinstance(choice, FunctionChoice):
        return {"type": "function", "function": {"name": choice.name}}
    return choice if request.tools or choice == "required" else None  # between no tools there is nothing to choose


def _response_format(request: ResponsesRequest) -> Document | None:
    wanted = request.text.format if request.text else None
    if isinstance(wanted, SchemaTextFormat):
        schema = wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": "json_schema", "json_schema": schema}
    return wanted.model_dump() if wanted else None


def _messages(request: ResponsesRequest) -> Iterator[Document]:
    if request.instructions is not None:
        yield {"role": "system", "content": request.instructions}
    if isinstance(request.input, str):
        yield {"role": "user", "content": request.input}
        return
    for by_model, group in groupby(request.input, _is_by_model):
        items = list(group)
        yield from _turn(items) if by_model else map(_message, items)


def _is_by_model(item: InputItem) -> bool:
    return isinstance(item, FunctionCallItem | ReasoningItem) or getattr(item, "role", None) == "assistant"


def _turn(items: list[InputItem]) -> Iterator[Document]:
    """What the model wrote in a row is one message: the runtime wants all calls in the one before their outputs."""
    said = [_joined(item.content) for item in items if isinstance(item, MessageItem)]
    calls = [_call(item) for item in items if isinstance(item, FunctionCallItem)]
    thought = "".join(_joined(item.content) for item in items if isinstance(item, ReasoningItem))
    if said or calls:  # reasoning alone is an answer that was cut, nothing to go on from
        content = "".join(said) if said else None
        fields = {"content": content, "reasoning_content": thought or None, "tool_calls": calls or None}
        yield _without_nulls(role="assistant", **fields)


def _joined(content: str | Iterable[InputText | OutputText | ReasoningText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _call(item: FunctionCallItem) -> Document:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _message(item: InputItem) -> Document:
    if isinstance(item, FunctionCallOutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}
    assert isinstance(item, MessageItem)
    return {"role": item.role, "content": _content(item.content)}


def _content(content: str | Iterable[InputText | OutputText]) -> str | list[Document]:
    return content if isinstance(content, str) else [{"type": "text", "text": part.text} for part in content]
