"""Which web pages may read answers: none, unless an operator names their origins (CORS).

Owns the syntax of origins and what a page may send and read. Refuses to own keys: a preflight carries none, the request
that follows it does.
"""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

EXPOSED_HEADERS = (
    "retry-after",
    "retry-after-ms",
    "x-aerie-pool",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
)
"""What a page may read of an answer's head, beside what every page may."""

EVERY_ORIGIN = "*"


def _origin(text: str) -> str:
    """As a browser writes it: scheme, host, a port that is not the scheme's own, and nothing after it."""
    url = urlsplit(text)
    bare = f"{url.scheme}://{url.netloc}"
    if text != EVERY_ORIGIN and (text != bare.lower() or url.scheme not in {"http", "https"} or "@" in text):
        raise ValueError(f"an origin is https://host or http://host:port in lower case, or *, not {text!r}")
    return text


Origin = Annotated[str, AfterValidator(_origin)]


def options(origins: tuple[str, ...]) -> dict[str, Any]:
    """For Starlette's CORSMiddleware. Keys are sent in a header, never by the browser itself: no credentials.

    Any header may be sent: OpenAI's package for browsers adds a dozen of its own.
    """
    return {
        "allow_origins": origins,
        "allow_methods": ("GET", "POST"),
        "allow_headers": ("*",),
        "expose_headers": EXPOSED_HEADERS,
    }
