"""The status page at `/`: one page to see whether the gateway is up and speculation pays, and to try a prompt.

Owns the routes, what they may load, and gathering the facts. Refuses to own figures (status_figures.py), words and
markup (status_view.py), and the API that the page's chat box uses, which is everybody's (routes.py).

Open, as /metrics is: keep it inside the cluster.
"""

import time
from collections.abc import Iterable
from importlib.resources import files
from string import Template

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse
from prometheus_client import Metric

from service.gateway.errors import GatewayError, NotFound
from service.gateway.fleet import Station
from service.gateway.markup import Html, html, joined
from service.gateway.relay import Surroundings
from service.gateway.status_errors import RecentErrors
from service.gateway.status_history import History, Totals
from service.gateway.status_pools import PoolFacts
from service.gateway.status_view import Facts, sections

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_PAGES = files("service.gateway") / "pages"
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class StatusPage:
    """The page of one process."""

    def __init__(self, around: Surroundings, errors: RecentErrors) -> None:
        self._around = around
        self._errors = errors
        self._history = History(self._collect)
        self._sections: dict[str, Html] = {}
        self._template = Template((_PAGES / "status.html").read_text("utf-8"))
        names = ("status.css", "status.js", "status.svg")
        self._assets = {name: (_PAGES / name).read_text("utf-8") for name in names}

    async def whole(self) -> HTMLResponse:
        """The page, readable without its script."""
        settings = self._around.settings
        page = self._template.substitute(
            self._look(),
            models=joined(*(html("option", model, value=model) for model in self._models())),
            key_hidden="" if settings.keys else "hidden",
            docs_hidden="" if settings.docs else "hidden",
        )
        return HTMLResponse(page, headers=HEADERS)

    async def fragment(self) -> HTMLResponse:
        """The parts that change."""
        return HTMLResponse(joined(*self._look().values()), headers=HEADERS)

    async def asset(self, name: str) -> Response:
        """What the page loads.

        Raises:
            NotFound: it does not.
        """
        if name not in self._assets:
            raise NotFound("There is no such route.")
        return Response(self._assets[name], headers=HEADERS, media_type=_TYPES[name.rpartition(".")[2]])

    def _collect(self) -> Iterable[Metric]:
        return self._around.metrics.source.collect()

    def _look(self) -> dict[str, Html]:
        """At most once a second: whoever asks more often sees the same."""
        if self._history.due or not self._sections:
            now, window = self._history.look()
            self._sections = sections(self._facts(now), now, window)
        return self._sections

    def _facts(self, now: Totals) -> Facts:
        around = self._around
        return Facts(
            draining=around.drain.draining,
            reason=around.fleet.reason,
            pools=[_pool_facts(station) for station in around.fleet.stations],
            errors=list(self._errors),
            workers=around.settings.workers,
            uptime_s=time.time() - now.sum("aerie_start_time_seconds"),
        )

    def _models(self) -> list[str]:
        try:
            return sorted({model for info in self._around.fleet.infos() for model in info.models})
        except GatewayError:
            return []


def add_to(app: FastAPI, around: Surroundings, errors: RecentErrors) -> None:
    """The page, its parts and what it loads."""
    page = StatusPage(around, errors)
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", page.whole)
    router.add_api_route("/status/fragment", page.fragment)
    router.add_api_route("/status/{name}", page.asset)
    app.include_router(router)


def _pool_facts(station: Station) -> PoolFacts:
    pool, in_use = station.pool, station.config.weight > 0
    return PoolFacts(
        name=station.config.name,
        kind=station.config.kind,
        in_use=in_use,
        able=pool.load.replicas,
        reason=pool.reason,
        reasons=pool.reasons if in_use else {},  # as /readyz tells them
        misfit=pool.calibration.problem,
    )
