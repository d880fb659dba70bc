"""Prometheus' HTTP API, as far as a roll-out needs it.

Owns the requests, their time limit and the words of what goes wrong. Refuses to own what is asked (evidence.py,
situation.py). Standard library: a step asks a dozen questions and ends. No proxies, as within a cluster.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.rollout.errors import RolloutError

TIMEOUT_S = 60.0


class Series(NamedTuple):
    """Labels, and values by time (Unix seconds); what Prometheus has no value for is not there."""

    labels: Mapping[str, str]
    values: Mapping[float, float]


class Prometheus:
    """One that answers at a base URL, or whatever speaks its API (Thanos, Mimir, VictoriaMetrics)."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """No request is made.

        Raises:
            RolloutError: this is no http or https URL.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RolloutError(f"--prometheus: {url} is no URL; give one like http://prometheus.monitoring.svc:9090")
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def now_s(self) -> float:
        """Its own clock's time: ours may differ."""
        return float(self._ask("query", query="time()")["result"][0])

    def at(self, expr: str, time_s: float) -> list[Series]:
        """An instant query.

        Raises:
            RolloutError: it cannot be reached, refuses the query, or is no Prometheus.
        """
        found = self._ask("query", query=expr, time=time_s)["result"]
        return [Series(one["metric"], _values([one["value"]])) for one in found]

    def between(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """A range query: a value at `start_s` and at every step until `end_s`. Raises as `at` does."""
        found = self._ask("query_range", query=expr, start=start_s, end=end_s, step=step_s)["result"]
        return [Series(one["metric"], _values(one["values"])) for one in found]

    def _ask(self, what: str, **parameters: str | float) -> dict[str, Any]:
        body = urllib.parse.urlencode(parameters).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/{what}", body, self._headers)  # noqa: S310 - http(s) only
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return self._data(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RolloutError(f"Prometheus at {self.url} answers {error.code}: {_reason(error.read())}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise RolloutError(f"Prometheus at {self.url} cannot be asked: {reason}") from None

    def _data(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
            data: dict[str, Any] = document["data"]
            data["result"]
        except (ValueError, LookupError, TypeError):
            raise RolloutError(f"{self.url} does not answer as Prometheus does; is it its base URL?") from None
        return data


def _values(points: list[list[Any]]) -> dict[float, float]:
    return {float(time_s): float(value) for time_s, value in points}


def _reason(body: bytes) -> str:
    """Prometheus' own words, else the beginning of whatever answered."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return " ".join(body.decode(errors="replace").split())[:200] or "nothing more"
