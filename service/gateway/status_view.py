"""The status page as HTML: what an operator reads first, then pools, decisions and errors.

Owns the sections and their words. Refuses to own where facts come from (status_page.py) and the frame around the
sections (pages/status.html).
"""

from collections.abc import Sequence
from typing import NamedTuple

from service.gateway.markup import Html, html, joined, table
from service.gateway.status_charts import figure
from service.gateway.status_errors import KEPT, RecentError
from service.gateway.status_figures import speedup, tau
from service.gateway.status_history import Totals, Window
from service.gateway.status_pools import NO_CALIBRATION, PoolFacts, pool_cards
from service.gateway.status_words import REASONS, UNKNOWN, both, count, duration, iso, last, moment

_TIMES = "\N{MULTIPLICATION SIGN}"


class Facts(NamedTuple):
    """What the page shows beside the time series."""

    draining: bool
    reason: str | None
    """Why nothing can be served."""
    pools: Sequence[PoolFacts]
    errors: Sequence[RecentError]
    workers: int
    uptime_s: float


def sections(facts: Facts, now: Totals, window: Window | None) -> dict[str, Html]:
    """Every part of the page that changes, by its id."""
    return {
        "state": _state(facts, now),
        "figures": _figures(facts, now, window),
        "pools": _section("pools", "Pools", pool_cards(facts.pools, now, window)),
        "decisions": _decisions(now, window),
        "errors": _errors(facts),
        "about": _about(facts, now),
    }


def _section(name: str, title: str, *parts: str | None) -> Html:
    return html("section", html("h2", title, id=f"{name}-title"), *parts, id=name, aria_labelledby=f"{name}-title")


def _state(facts: Facts, now: Totals) -> Html:
    if facts.draining:
        mood, title, words = "fair", "Draining", "Running requests are finished, new ones go elsewhere."
    elif facts.reason is not None:
        mood, title, words = "bad", "Not ready", facts.reason
    else:
        able, known = sum(pool.able for pool in facts.pools), sum(1 for _ in now["aerie_upstream_up"])
        words = f"{able} of {count(known, 'replica')} take requests." if known != 1 else "Its replica takes requests."
        mood, title = "good" if able >= known else "fair", "Ready"
    return html(
        "section", html("strong", title), " ", html("span", words), id="state", class_=f"state {mood}", role="status"
    )


def _figures(facts: Facts, now: Totals, window: Window | None) -> Html:
    speculates = any(pool.speculates for pool in facts.pools)
    tiles = (
        _tile("Acceptance length \N{GREEK SMALL LETTER TAU}", *_tau(now, window, speculates=speculates)),
        _tile("Speedup", *_speedup(facts, now, window, speculates=speculates)),
        _tile("Tokens per second", *_tokens(now, window)),
        _tile("Requests in flight", count(now.sum("aerie_requests_in_flight")), _waiting(now)),
        _tile("Requests finished", *_requests(now)),
    )
    return html("section", html("dl", *tiles, class_="tiles"), id="figures", aria_label="Figures")


def _tile(name: str, value: str, note: str, mood: str = "") -> Html:
    shown = html("dd", html("b", value), html("small", note))
    return html("div", html("dt", name), shown, class_=f"tile {mood}".rstrip())


def _tau(now: Totals, window: Window | None, *, speculates: bool) -> tuple[str, str]:
    value, covers = both(tau(now, window), window)
    return value, covers or ("no verify pass counted yet" if speculates else "no pool speculates")


def _speedup(facts: Facts, now: Totals, window: Window | None, *, speculates: bool) -> tuple[str, ...]:
    found = speedup(now, window, [pool.name for pool in facts.pools])
    value, covers = both(found, window, _TIMES)
    if covers:
        pays = (found.recent or found.ever or 0.0) >= 1
        return value, covers if pays else f"slower than the baseline; {covers}", "good" if pays else "bad"
    if not speculates:
        return UNKNOWN, "no pool speculates"
    valid = now["aerie_calibration_valid"].values()
    if not valid:
        return UNKNOWN, NO_CALIBRATION
    return UNKNOWN, "nothing measured yet" if any(valid) else "the calibration does not fit the runtimes"


def _tokens(now: Totals, window: Window | None) -> tuple[str, str]:
    series = "aerie_completion_tokens_total"
    total = now.sum(series)
    if not total:
        return UNKNOWN, "no token generated yet"
    since = f"{count(total, 'token')} since the start"
    if window is None:
        return UNKNOWN, f"{since}; rates in some seconds"
    return figure(window.grew(series) / window.seconds), f"{last(window)}; {since}"


def _waiting(now: Totals) -> str:
    waiting = now.sum("aerie_queue_waiting_requests")
    return f"{count(waiting)} waiting in the queue" if waiting else "none waiting"


def _requests(now: Totals) -> tuple[str, str]:
    found = dict.fromkeys(("ok", "error", "rejected", "cancelled"), 0.0)
    for (route, outcome), value in now["aerie_requests_total"].items():
        if route.startswith("/v1/"):
            found[outcome] = found.get(outcome, 0.0) + value
    failed = [f"{count(found[name])} {words}" for name, words in _OUTCOMES.items() if found[name]]
    finished = sum(found.values())
    return count(finished), ", ".join(failed) or ("none failed" if finished else "none yet")


_OUTCOMES = {"error": "failed", "rejected": "rejected", "cancelled": "cancelled"}


def _decisions(now: Totals, window: Window | None) -> Html:
    found = sorted(now["aerie_policy_decisions_total"].items(), key=lambda item: -item[1])
    recent = last(window).capitalize() if window else "Last minute"
    rows = [
        (
            joined(html("code", reason), html("small", f"{kind}: {REASONS.get(reason, '')}")),
            count(value),
            count(window.grew("aerie_policy_decisions_total", kind, reason)) if window else UNKNOWN,
        )
        for (kind, reason), value in found
        if value
    ]
    heads = ("Reason", "In all", recent)
    made = table("Which kind of pool requests went to, and why", heads, rows, class_="numbers") if rows else None
    empty = html("p", "No request has been sent to a pool yet.", class_="empty")
    refused = [f"{code} {count(value)}" for (code,), value in sorted(now["aerie_refusals_total"].items()) if value]
    words = html("p", f"Refused for lack of room or by a key's limit: {', '.join(refused)}.") if refused else None
    return _section("decisions", "Policy", made or empty, words)


def _errors(facts: Facts) -> Html:
    rows = [
        (
            html("time", moment(error.at_s), datetime=iso(error.at_s)),
            html("code", error.route),
            str(error.status),
            html("code", error.code),
            html("code", error.request_id),
        )
        for error in facts.errors
    ]
    heads = ("Time", "Route", "Status", "Code", "Request id")
    found = (
        table(f"Of the runtime, of the gateway, and for lack of room: the last {KEPT}", heads, rows) if rows else None
    )
    whose = f"Of the worker that answered; there are {facts.workers}." if facts.workers > 1 else None
    empty = html("p", "None since the start.", class_="empty")
    return _section("errors", "Recent errors", found or empty, html("p", whose, class_="note") if whose else None)


def _about(facts: Facts, now: Totals) -> Html:
    versions = sorted(version for (version,) in now["aerie_build_info"])
    words = f"Aerie gateway {', '.join(versions)}".strip() + f", up for {duration(facts.uptime_s)}"
    workers = f", {facts.workers} workers" if facts.workers > 1 else ""
    return html("p", words + workers, id="about")
