"""A chat completion as a response of the Responses API.

Owns the items of the output, the response's status and the response object. Refuses to own the events that tell of
them (responses_writer.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from service.gateway import sglang_events
from service.gateway.errors import GatewayError, InvalidRequest, Overloaded, UpstreamFailed, UpstreamProtocolError
from service.gateway.include import speculation_block
from service.gateway.parse import Document
from service.gateway.record import Speculation
from service.gateway.responses_protocol import ResponsesRequest

Kind = Literal["reasoning", "message", "function_call"]

_ID_PREFIX = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_COMPLETED = ("completed", None)
_ENDS = {
    "length": ("incomplete", {"reason": "max_output_tokens"}),
    "content_filter": ("incomplete", {"reason": "content_filter"}),
    "abort": ("failed", None),
}
"""Status and incomplete_details by finish reason; with any other the answer is complete."""
_ERROR_CODES = {InvalidRequest: "invalid_prompt", Overloaded: "rate_limit_exceeded"}
"""The API has a closed list, the rest is `server_error`; the exact code is in the stream's error event."""


@dataclass(slots=True)
class OutputItem:
    """One item as far as it has come; `index` is its place in the output."""

    kind: Kind
    id: str
    index: int
    name: str = ""
    call_id: str = ""
    status: str = "in_progress"
    deltas: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text, or a call's arguments."""
        return "".join(self.deltas)

    def blank(self) -> Self:
        """As it was before the first delta."""
        return replace(self, status="in_progress", deltas=[])

    def part(self) -> Document:
        """The one content part of a message or of reasoning."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def document(self) -> Document:
        """The item as the API has it."""
        item: Document = {"type": self.kind, "id": self.id, "status": self.status}
        if self.kind == "function_call":
            return item | {"call_id": self.call_id, "name": self.name, "arguments": self.text}
        item |= {"content": [] if self.status == "in_progress" else [self.part()]}
        own: Document = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        return item | own


class Output:
    """A response as far as it has come: fed with a whole answer, or with the chunks of a stream."""

    def __init__(
        self, request: ResponsesRequest, response_id: str, created_at: int, *, wants_speculation: bool = False
    ) -> None:
        self.items: list[OutputItem] = []
        self.status = "in_progress"
        self._request = request
        self._head = {"id": response_id, "object": "response", "created_at": created_at}
        self._id_tail = response_id.removeprefix("resp")
        self._calls: dict[int, OutputItem] = {}
        self._end: tuple[str, Document | None] = _COMPLETED
        self._error: Document | None = None
        self._incomplete_details: Document | None = None
        self._usage: Document | None = None
        self._figures: Document = {}
        self._wants_speculation = wants_speculation
        self._speculation: Speculation | None = None

    def take(self, document: Document) -> list[tuple[OutputItem, str]]:
        """Add what an answer or a chunk says. Returns what was added to which item, in order.

        Raises:
            UpstreamProtocolError: not a chat completion; nothing may be added after that.
        """
        try:
            return list(self._read(document))
        except (KeyError, TypeError, AttributeError) as error:
            raise UpstreamProtocolError("The runtime's answer is not a chat completion.") from error

    def finish(self) -> None:
        """Nothing more will come. An answer without a word is an empty message."""
        if not self.items:
            self._add("message")
        self.status, self._incomplete_details = self._end
        if self.status == "failed":
            self.fail(UpstreamFailed("The runtime stopped this request before its end."))
        elif self.status == "incomplete":
            self.items[-1].status = "incomplete"
        self._settle("completed")

    def fail(self, error: GatewayError) -> None:
        """It broke."""
        self.status = "failed"
        self._error = {"code": _ERROR_CODES.get(type(error), "server_error"), "message": error.message}
        self._settle("incomplete")

    def _settle(self, status: str) -> None:
        for item in self.items:
            if item.status == "in_progress":
                item.status = status

    def document(self) -> Document:
        """The response object."""
        return {
            **self._head,
            "status": self.status,
            "error": self._error,
            "incomplete_details": self._incomplete_details,
            "output": [item.document() for item in self.items],
            "usage": self._told_usage(),
            **_echo(self._request),
            **self._figures,
        }

    def _told_usage(self) -> Document | None:
        if self._usage is None or not self._wants_speculation:
            return self._usage
        return self._usage | {"speculation": speculation_block(self._speculation)}

    def _read(self, document: Document) -> Iterator[tuple[OutputItem, str]]:
        self._usage = _usage(document) or self._usage
        self._speculation = sglang_events.speculation_of(document) or self._speculation
        if self._request.return_spec_tokens_details and (figures := document.get("sglext")):
            self._figures = {"sglext": figures}
        for choice in document["choices"]:
            if reason := choice.get("finish_reason"):
                self._end = _ENDS.get(reason, _COMPLETED)
            said = choice["delta"] if "delta" in choice else choice["message"]
            if text := said.get("reasoning_content"):
                yield self._append(self._text_item("reasoning"), text)
            if text := said.get("content"):
                yield self._append(self._text_item("message"), text)
            for call in said.get("tool_calls") or ():
                yield self._append(self._call_item(call), call["function"]["arguments"] or "")

    def _append(self, item: OutputItem, text: str) -> tuple[OutputItem, str]:
        if not isinstance(text, str):
            raise TypeError("not text")
        item.deltas.append(text)
        return item, text

    def _text_item(self, kind: Kind) -> OutputItem:
        """The last item, if text can go on there: a call in between begins a new one."""
        return self.items[-1] if self.items and self.items[-1].kind == kind else self._add(kind)

    def _call_item(self, call: Document) -> OutputItem:
        """The first delta of a call names it; further ones have only its index."""
        index, name = call["index"], call["function"]["name"]
        if name:
            self._calls[index] = self._add("function_call", name=name, call_id=call["id"])
        return self._calls[index]

    def _add(self, kind: Kind, *, name: str = "", call_id: str = "") -> OutputItem:
        index = len(self.items)
        item_id = f"{_ID_PREFIX[kind]}{self._id_tail}_{index}"
        self.items.append(OutputItem(kind, item_id, index, name=name, call_id=call_id))
        return self.items[-1]


def response_object(
    answer: Document, request: ResponsesRequest, response_id: str, *, wants_speculation: bool = False
) -> Document:
    """The response to a request, from the whole chat completion.

    Raises:
        UpstreamProtocolError: it is none.
    """
    output = Output(request, response_id, answer.get("created", 0), wants_speculation=wants_speculation)
    output.take(answer)
    output.finish()
    return output.document()


def _usage(document: Document) -> Document | None:
    tokens = sglang_events.usage_of(document)
    if tokens is None:
        return None
    usage = document["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return {
        "input_tokens": tokens.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached or 0},
        "output_tokens": tokens.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens") or 0},
        "total_tokens": tokens.prompt_tokens + tokens.completion_tokens,
    }


def _echo(request: ResponsesRequest) -> dict[str, Any]:
    """The request's settings. What was left out is the API's default where that is what happened, else null."""
    text_format = request.text and request.text.format
    choice = request.tool_choice
    return {
        "model": request.model,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {"effort": request.reasoning and request.reasoning.effort, "summary": None},
        "temperature": request.temperature,
        "text": {"format": text_format.model_dump(by_alias=True) if text_format else {"type": "text"}},
        "tool_choice": (choice if isinstance(choice, str) else choice and choice.model_dump()) or "auto",
        "tools": [tool.model_dump() for tool in request.tools or ()],
        "top_p": request.top_p,
        "user": request.user,
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "truncation": "disabled",
    }
