"""The status page's part on pools: a card for each, with its state, its figures and its charts.

Owns what is said of a pool. Refuses to own the rest of the page (status_view.py) and the figures (status_figures.py).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.gateway.markup import Html, definitions, html, joined, table
from service.gateway.policy import Kind
from service.gateway.status_charts import Bars, bar_chart, figure
from service.gateway.status_figures import BatchRow, accepted_at, batch_rows, speedup, tau
from service.gateway.status_history import Totals, Window
from service.gateway.status_words import UNKNOWN, both, count, last, moment

NO_CALIBRATION = "no calibration: run aerie-bench calibrate"
_AXIS = "requests at a replica, up to"


class PoolFacts(NamedTuple):
    """A pool as the gateway sees it now."""

    name: str
    kind: Kind
    in_use: bool
    """It has a weight."""
    able: int
    """Replicas that take requests."""
    reason: str | None
    """Why it is not ready."""
    reasons: Mapping[str, str]
    """Why each replica takes no requests, as /readyz says it."""
    misfit: str | None
    """Why its calibration does not fit."""

    @property
    def speculates(self) -> bool:
        """Whether it has a draft."""
        return self.kind is Kind.SPECULATIVE


def pool_cards(pools: Sequence[PoolFacts], now: Totals, window: Window | None) -> Html:
    """All of them."""
    plain = {pool.name: _models(pool, now) for pool in pools if not pool.speculates}
    return joined(
        *(_card(pool, [name for name in plain if plain[name] & _models(pool, now)], now, window) for pool in pools)
    )


def _models(pool: PoolFacts, now: Totals) -> set[str]:
    return {model for model, *_ in now.of("aerie_upstream_info", pool.name)}


def calibration(pool: PoolFacts, now: Totals) -> str:
    """Whether its speedup can be known, or why not."""
    valid = now["aerie_calibration_valid"].get((pool.name,))
    if valid is None:
        return NO_CALIBRATION
    if not valid:
        return pool.misfit or "another worker's runtimes are not what it was measured on"
    made = now["aerie_calibration_timestamp_seconds"].get((pool.name,))
    return f"valid, measured {moment(made)}" if made else "valid"


def _card(pool: PoolFacts, baselines: Sequence[str], now: Totals, window: Window | None) -> Html:
    rows = batch_rows(now, window, pool.name, baselines)
    parts = (
        _head(pool, now),
        html("ul", *(html("li", html("code", who), " ", why) for who, why in pool.reasons.items()), class_="reasons")
        if pool.reasons
        else None,
        _facts(pool, now, window),
        _charts(pool, rows, now, window) if rows else html("p", _nothing_yet(pool), class_="empty"),
        _numbers(pool, rows) if rows else None,
    )
    return html("article", *parts, class_="card", data_pool=pool.name, data_kind=pool.kind.value)


def _head(pool: PoolFacts, now: Totals) -> Html:
    versions = sorted(version for (version,) in now.of("aerie_pool_info", pool.name))
    badges = [html("span", word, class_="badge") for word in (pool.kind.value, *versions) if word]
    return html("header", html("h3", pool.name), *badges, _state(pool, now))


def _state(pool: PoolFacts, now: Totals) -> Html:
    known = len(now.of("aerie_upstream_up", pool.name))
    if not pool.in_use:
        mood, words = "off", "no traffic: its weight is 0"
    elif pool.reason is not None:
        mood, words = "bad", pool.reason
    elif pool.able < known:
        mood, words = "fair", f"{pool.able} of {count(known, 'replica')} take requests"
    else:
        mood, words = "good", "takes requests"
    return html("span", words, class_=f"state {mood}")


def _facts(pool: PoolFacts, now: Totals, window: Window | None) -> Html:
    described = sorted(now.of("aerie_upstream_info", pool.name))
    return definitions(
        ("Replicas", f"{pool.able} of {len(now.of('aerie_upstream_up', pool.name))} take requests"),
        ("Requests", _requests(pool, now)),
        ("Model", _each(row[0] for row in described)),
        ("Runtime", _each(f"SGLang {version} on {device}" for _, version, device, _, _ in described)),
        ("Speculation", _each(f"{row[3]} {row[4]}" for row in described) if pool.speculates else None),
        ("Acceptance length", _figure(*both(tau(now, window, pool.name), window)) if pool.speculates else None),
        (
            "Speedup",
            _figure(*both(speedup(now, window, [pool.name]), window, "\N{MULTIPLICATION SIGN}"))
            if pool.speculates
            else None,
        ),
        ("Calibration", calibration(pool, now) if pool.speculates else None),
        class_="facts",
    )


def _requests(pool: PoolFacts, now: Totals) -> str:
    running = count(now.sum("aerie_upstream_requests_in_flight", pool.name))
    return f"{running} in flight, {count(now.sum('aerie_queue_waiting_requests', pool.name))} waiting"


def _each(names: object) -> str:
    return ", ".join(dict.fromkeys(names)) or "not known yet"  # type: ignore[call-overload]


def _figure(value: str, covers: str) -> Html | None:
    return joined(value, " ", html("small", covers)) if covers else None


def _nothing_yet(pool: PoolFacts) -> str:
    what = "Speedup and throughput" if pool.speculates else "Throughput"
    return f"Nothing measured yet: {what.lower()} by batch size appear after the first finished request."


def _charts(pool: PoolFacts, rows: Sequence[BatchRow], now: Totals, window: Window | None) -> Html:
    charts = [_throughput(pool, rows)]
    if pool.speculates:
        charts = [_speedup(rows), *charts, _accepted(pool, now)]
    return joined(html("div", *charts, class_="charts"), _legend(pool, rows, window))


def _chart(title: str, drawn: Html) -> Html:
    return html("figure", html("figcaption", title), drawn)


def _speedup(rows: Sequence[BatchRow]) -> Html:
    sizes = [row.batch_size for row in rows]
    calibrated = [row.speedup.ever for row in rows]
    values = [row.live_speedup for row in rows] if not any(calibrated) else calibrated
    if not any(values):
        return _chart(
            "Speedup by batch size", html("p", f"Not known: {NO_CALIBRATION}, or add a baseline pool.", class_="empty")
        )
    marks = [row.speedup.recent for row in rows] if any(calibrated) else []
    words = ", ".join(f"{size}: {figure(value)}" for size, value in zip(sizes, values, strict=True) if value)
    drawn = bar_chart(
        f"Speedup by batch size. {words}", _AXIS, sizes, [Bars("speedup", values, "ours", marks)], level=1.0
    )
    return _chart("Speedup by batch size; the baseline is 1", drawn)


def _throughput(pool: PoolFacts, rows: Sequence[BatchRow]) -> Html:
    sizes = [row.batch_size for row in rows]
    values = [row.tokens_per_s.ever for row in rows]
    marks = [row.tokens_per_s.recent for row in rows]
    series = [Bars(pool.name, values, "ours" if pool.speculates else "theirs", marks)]
    if pool.speculates and any(row.baseline_per_s for row in rows):
        series.insert(0, Bars("baseline", [row.baseline_per_s for row in rows], "theirs"))
    words = ", ".join(
        f"{size}: {figure(value)}" for size, value in zip(sizes, values, strict=True) if value is not None
    )
    drawn = bar_chart(f"Tokens per second of a replica, by batch size. {words}", _AXIS, sizes, series)
    return _chart("Tokens/s of a replica", drawn)


def _accepted(pool: PoolFacts, now: Totals) -> Html:
    shares = accepted_at(now, pool.name)
    if not shares:
        return _chart("Drafts accepted", html("p", "Not known: no verify pass has been counted.", class_="empty"))
    places = [place for place, _ in shares]
    percent = [100 * share for _, share in shares]
    words = ", ".join(f"{place}: {value:.0f}%" for place, value in zip(places, percent, strict=True))
    label = f"Verify passes that accepted the draft at each position, in percent. {words}"
    drawn = bar_chart(label, "position of the draft", places, [Bars("accepted", percent, "ours")])
    return _chart("Drafts accepted, % of passes", drawn)


def _legend(pool: PoolFacts, rows: Sequence[BatchRow], window: Window | None) -> Html:
    keys = [
        html("li", html("i", class_="key ours" if pool.speculates else "key theirs"), f"{pool.name}, since the start")
    ]
    if pool.speculates and any(row.baseline_per_s for row in rows):
        calibrated = any(row.speedup.ever for row in rows)
        words = "baseline, as calibrated" if calibrated else "baseline, as the baseline pool does"
        keys.append(html("li", html("i", class_="key theirs"), words))
    if window is not None and any(row.tokens_per_s.recent for row in rows):
        keys.append(html("li", html("i", class_="key mark"), last(window)))
    return html("ul", *keys, class_="legend")


def _numbers(pool: PoolFacts, rows: Sequence[BatchRow]) -> Html:
    heads = ["Batch size, up to", "Tokens/s", "Last minute"]
    cells = [[row.batch_size, *map(_known, reversed(row.tokens_per_s))] for row in rows]
    if pool.speculates:
        columns: dict[str, list[float | None]] = {
            "Baseline": [row.baseline_per_s for row in rows],
            "Speedup": [row.speedup.ever for row in rows],
            "Live speedup": [row.live_speedup for row in rows],
            "Break-even \N{GREEK SMALL LETTER TAU}": [row.break_even for row in rows],
        }
        known = {head: values for head, values in columns.items() if any(values)}
        heads += known
        cells = [[*cell, *map(_known, more)] for cell, *more in zip(cells, *known.values(), strict=True)]
    name = f"numbers-{pool.name}"
    numbers = table(f"{pool.name} by batch size", heads, cells, class_="numbers")
    return html("details", html("summary", "The numbers", id=f"open-{name}"), numbers, id=name)


def _known(value: float | None) -> str:
    return UNKNOWN if value is None else figure(value)
