"""A valid request as it goes upstream, and what its client is to see of the answer.

Owns the data between the checks (routes.py) and the work (relay.py). Refuses to own either.
"""

from typing import Any, NamedTuple, Protocol

from service.gateway.admission import Ticket
from service.gateway.errors import GatewayError
from service.gateway.fleet import Plan
from service.gateway.keys import Key


class Translation(Protocol):
    """What the client is told instead of a chat completion; what is accounted for stays the runtime's answer."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer that is not streamed."""

    def feed(self, chunk: dict[str, Any]) -> bytes:
        """The events for one of the runtime's."""

    def done(self) -> bytes:
        """The last events."""

    def fail(self, error: GatewayError) -> bytes:
        """The last events of a stream that broke."""

    def renamed(self, error: GatewayError) -> GatewayError:
        """The error of a request that was not answered."""


class Exchange(NamedTuple):
    """A valid request as it goes upstream, and what the client wants to see of the answer.

    `rids` are the ids the runtime knows it by; `own_ids` says that it will mint further ones, told in the events.
    """

    path: str
    body: bytes
    rid: str
    rids: tuple[str, ...]
    own_ids: bool
    prompt_param: str
    stream: bool
    wants_usage: bool
    wants_details: bool
    wants_speculation: bool
    key: Key
    estimate: int
    """Tokens it may use."""
    ticket: Ticket
    conversation: bytes | None
    plan: Plan
    translation: Translation | None = None
