"""What routes are given: the gateway's parts and the request's record, as `Annotated` aliases; and who asks.

Owns the typed lifespan state. Refuses to own making those parts (app.py).
"""

from typing import Annotated, NotRequired, TypedDict, cast

from fastapi import Depends, Request

from service.gateway.headers import header
from service.gateway.keys import Key
from service.gateway.record import RequestRecord
from service.gateway.relay import Surroundings


class State(TypedDict):
    """What the lifespan yields."""

    around: Surroundings
    tracer: NotRequired[object]
    """spans.py's, where it is switched on."""


async def _around(request: Request) -> Surroundings:
    return cast("Surroundings", request.state.around)


async def _record(request: Request) -> RequestRecord:
    return cast("RequestRecord", request.state.record)


Around = Annotated[Surroundings, Depends(_around)]
Record = Annotated[RequestRecord, Depends(_record)]


def authenticated(request: Request, around: Surroundings, record: RequestRecord) -> Key:
    """Whose request it is, noted in its record.

    Raises:
        Unauthorized: nobody's that is known and valid.
    """
    key = around.guard.authenticate(header(request.scope, b"authorization"))
    record.key_id, record.key_class = key.id, key.tenant_class
    return key
