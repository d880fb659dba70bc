"""A request's headers by their names: put together once, at its beginning, and read wherever one is needed.

Owns where they are kept while the request lasts. Refuses to own what any of them means.
"""

from starlette.types import Scope


def keep(scope: Scope) -> None:
    """To be done first. Of a header sent twice the first counts; ASGI's names are in lower case."""
    scope.setdefault("state", {})["headers"] = dict(reversed(scope["headers"]))


def header(scope: Scope, name: bytes) -> str | None:
    """Its value, if it was sent; any bytes are text in Latin-1."""
    value: bytes | None = scope["state"]["headers"].get(name)
    return None if value is None else value.decode("latin-1")
