"""Requests as they have gone upstream, for tests of what looks at them afterwards. Only under tests/."""

from service.gateway import parse, sglang
from service.gateway.admission import Ticket
from service.gateway.exchange import Exchange
from service.gateway.keys import ANONYMOUS
from service.gateway.policy import RequestFacts
from tests.service.gateway.scripted_upstream import MODEL

FACTS = RequestFacts(draw=1.0)


def exchange_of(fleet, path, *, rid=None, stream=False, **fields):
    """A greedy request to the fleet, with these fields of its body."""
    rid = rid or sglang.mint_rid("chatcmpl")
    document = {"model": MODEL, "temperature": 0} | fields | ({"stream": True} if stream else {})
    return Exchange(
        path=path,
        body=parse.for_upstream(document, sglang.additions(rid, stream=stream, stream_options=None)),
        rid=rid,
        rids=(rid,),
        own_ids=False,
        prompt_param="messages",
        stream=stream,
        wants_usage=False,
        wants_details=False,
        wants_speculation=False,
        key=ANONYMOUS,
        estimate=9,
        ticket=Ticket("anonymous", 1, 30.0, cost=9),
        conversation=None,
        plan=fleet.plan(MODEL, FACTS, b"", lambda info: None),
    )
