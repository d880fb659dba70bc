"""How the status page says things: numbers, times, durations, and what a policy's reason means.

Owns words. Refuses to own figures and markup.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from service.gateway.policy import Reason
from service.gateway.status_charts import figure
from service.gateway.status_figures import Both
from service.gateway.status_history import WINDOW_S, Window

UNKNOWN = "\N{EM DASH}"

REASONS: Mapping[str, str] = {
    Reason.ASKED_OFF: "the client asked for no speculation",
    Reason.GRAMMAR: "constrained answers go to the baseline",
    Reason.LOGPROBS: "log-probabilities go to the baseline",
    Reason.ONLY_POOL: "there is only one kind of pool",
    Reason.ASKED_ON: "the client asked for speculation",
    Reason.KEY_OFF: "the key's default is off",
    Reason.KEY_ON: "the key's default is on",
    Reason.BASELINE_BUSY: "the baseline is too busy",
    Reason.LONG_PROMPT: "the prompt is long",
    Reason.SHORT_ANSWER: "the answer will be short",
    Reason.TEMPERATURE: "the temperature is high",
    Reason.BATCH_SIZE: "speculation does not pay at this load",
    Reason.SHARE: "a sample that measures the live speedup",
    Reason.DEFAULT: "nothing speaks against speculation",
    Reason.FAILOVER: "no replica of the other kind takes requests",
    Reason.CAPABILITY: "the other kind cannot serve such a request",
}


def count(value: float, what: str = "", several: str = "") -> str:
    """A whole number, and of what: `count(2, "token")` is `2 tokens`."""
    number = f"{value:,.0f}"
    return f"{number} {what if number == '1' else several or what + 's'}" if what else number


def duration(seconds: float) -> str:
    """In the two largest units that matter."""
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def moment(unix_s: float) -> str:
    """As people write it, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(unix_s: float) -> str:
    """As programs write it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def last(window: Window) -> str:
    """The time that a window covers."""
    rounded = round(window.seconds)
    if WINDOW_S <= rounded < WINDOW_S + 5:
        return "last minute"
    return f"last {rounded} s" if rounded < 120 else f"last {duration(rounded)}"


def both(value: Both, window: Window | None, unit: str = "") -> tuple[str, str]:
    """A figure, that of the last minute if there is one, and what it covers."""
    if value.recent is not None and value.ever is not None and window is not None:
        return figure(value.recent) + unit, f"{last(window)}; {figure(value.ever)}{unit} since the start"
    if value.ever is not None:
        return figure(value.ever) + unit, "since the start" + (f"; idle in the {last(window)}" if window else "")
    return UNKNOWN, ""
