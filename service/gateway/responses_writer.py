"""What a client of the Responses API is sent: one object, or a stream of events.

Owns the events, their order and their numbers. Refuses to own what they tell of (responses_output.py), when a stream
starts or breaks (relay.py), and I/O.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from service.gateway.errors import GatewayError
from service.gateway.parse import Document
from service.gateway.responses import renamed
from service.gateway.responses_output import Output, OutputItem, response_object
from service.gateway.responses_protocol import ResponsesRequest

_TEXT_EVENT = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "function_call": "response.function_call_arguments",
}


class ResponseWriter:
    """Writes one response: `whole`, or `feed` for every chunk and at last `done` or `fail`.

    Text is done when another item begins. Calls stay open until the end: the runtime may complete the last call's
    arguments after text that follows it (SGLang's serving_chat.py, _check_for_unstreamed_tool_args).
    """

    def __init__(
        self, request: ResponsesRequest, response_id: str, created_at: int, *, wants_speculation: bool = False
    ) -> None:
        self._request = request
        self._response_id = response_id
        self._wants_speculation = wants_speculation
        self._output = Output(request, response_id, created_at, wants_speculation=wants_speculation)
        self._created = self._output.document()
        self._open: list[OutputItem] = []
        self._begun_items = 0
        self._sequence_number = 0

    @staticmethod
    def renamed(error: GatewayError) -> GatewayError:
        """The error of a request that was not answered, in the words of this API."""
        return renamed(error)

    def whole(self, answer: Document) -> Document:
        """The response that was not streamed.

        Raises:
            UpstreamProtocolError: the answer is no chat completion.
        """
        return response_object(answer, self._request, self._response_id, wants_speculation=self._wants_speculation)

    def feed(self, chunk: Document) -> bytes:
        """The events that follow from a chat chunk, or from its summary of usage or acceptance figures.

        Raises:
            UpstreamProtocolError: it is neither.
        """
        added = self._output.take(chunk)
        events = [*self._begin()]
        for item, delta in added:
            events += [*self._begin_item(item), *self._delta(item, delta)]
        return b"".join(events)

    def done(self) -> bytes:
        """The last events of a stream that came to its end."""
        self._output.finish()
        events = [*self._begin()]
        for item in self._output.items[self._begun_items :]:  # an answer without a word
            events += self._begin_item(item)
        for item in self._open:
            events += self._end_item(item)
        return b"".join([*events, self._last_event()])

    def fail(self, error: GatewayError) -> bytes:
        """The last events of a stream that broke.

        The `error` event has its fields twice: where the API documents them, and where OpenAI sends them, which makes
        its package raise (openai-dotnet#881, openai-python#2487).
        """
        error = renamed(error)
        self._output.fail(error)
        fields = {"message": error.message, "code": error.code, "param": error.param}
        events = [*self._begin(), self._last_event()]
        return b"".join([*events, self._event("error", **fields, error={**fields, "type": error.type})])

    def _begin(self) -> Iterator[bytes]:
        if self._sequence_number == 0:
            yield self._event("response.created", response=self._created)
            yield self._event("response.in_progress", response=self._created)

    def _begin_item(self, item: OutputItem) -> Iterator[bytes]:
        """Nothing, if it has begun."""
        if item.index < self._begun_items:
            return
        for text in [item for item in self._open if item.kind != "function_call"]:
            text.status = "completed"
            self._open.remove(text)
            yield from self._end_item(text)
        self._begun_items += 1
        self._open.append(item)
        blank = item.blank()
        yield self._event("response.output_item.added", output_index=item.index, item=blank.document())
        if item.kind != "function_call":
            yield self._event("response.content_part.added", **_place(item), part=blank.part())

    def _delta(self, item: OutputItem, delta: str) -> Iterator[bytes]:
        if delta:
            yield self._event(f"{_TEXT_EVENT[item.kind]}.delta", **_place(item), **_logprobs(item), delta=delta)

    def _end_item(self, item: OutputItem) -> Iterator[bytes]:
        said = {"name": item.name, "arguments": item.text} if item.kind == "function_call" else {"text": item.text}
        yield self._event(f"{_TEXT_EVENT[item.kind]}.done", **_place(item), **_logprobs(item), **said)
        if item.kind != "function_call":
            yield self._event("response.content_part.done", **_place(item), part=item.part())
        yield self._event("response.output_item.done", output_index=item.index, item=item.document())

    def _last_event(self) -> bytes:
        return self._event(f"response.{self._output.status}", response=self._output.document())

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - any JSON value
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def _place(item: OutputItem) -> dict[str, Any]:
    place: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
    return place if item.kind == "function_call" else place | {"content_index": 0}


def _logprobs(item: OutputItem) -> dict[str, Any]:
    """Required by the API where there is text; never asked for here."""
    return {"logprobs": []} if item.kind == "message" else {}
