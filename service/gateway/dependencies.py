"""What routes are given: the gateway's parts and the request's record, as `Annotated` aliases.

Owns the typed lifespan state. Refuses to own making those parts (app.py).
"""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from service.gateway.record import RequestRecord
from service.gateway.relay import Surroundings


class State(TypedDict):
    """What the lifespan yields."""

    around: Surroundings


def _around(request: Request) -> Surroundings:
    return cast("Surroundings", request.state.around)


def _record(request: Request) -> RequestRecord:
    return cast("RequestRecord", request.state.record)


Around = Annotated[Surroundings, Depends(_around)]
Record = Annotated[RequestRecord, Depends(_record)]
