"""Is this process alive, should it get traffic, how is it doing.

Owns /healthz, /readyz and /metrics. Refuses to touch the runtime: /readyz reads what the last probe found.
"""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.gateway.dependencies import Around

router = APIRouter()


@router.get("/healthz")
async def alive() -> JSONResponse:
    """200 as long as the event loop runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def ready(around: Around) -> JSONResponse:
    """200 when not draining and a runtime takes requests, else 503 and the reason; which replicas do not, and why."""
    found = {"not_ready": around.fleet.not_ready} if around.fleet.not_ready else {}
    reason = "The gateway is draining." if around.drain.draining else around.fleet.reason
    if reason is None:
        return JSONResponse({"status": "ok", **found})
    body = {"status": "unavailable", "reason": reason, **found}
    return JSONResponse(body, status_code=503, headers={"retry-after": "1"})


@router.get("/metrics", response_class=Response)
async def metrics(around: Around) -> Response:
    """Prometheus text format."""
    return Response(around.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
