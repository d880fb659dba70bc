"""Where replicas are: URLs as given, and DNS names behind which there is one replica per address.

Owns the targets' syntax and the last good answer of every name. Refuses to own when to ask again and what to do about a
change (pool.py), and whether a replica is well (replica.py). No Kubernetes API: a headless service is a DNS name.

`http://host:port` (or https) is one replica. `dns+http://name:port` is every A and AAAA record of the name, so a
dual-stack service should be asked for by a name that has one family. There is no `dns+https`: certificates name hosts.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator

RESOLVE_TIMEOUT_S = 5.0

_DNS = "dns+"
_log = logging.getLogger("aerie.discovery")

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""The addresses of a name and port. Raises OSError when there is no answer, or not in time."""


async def resolve(name: str, port: int) -> set[str]:
    """By the event loop's getaddrinfo, in a thread of its own.

    Raises:
        OSError: no such name, no resolver, or no answer within `RESOLVE_TIMEOUT_S`.
    """
    async with asyncio.timeout(RESOLVE_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


@dataclass(frozen=True, slots=True)
class Target:
    """One place to look: a base URL, or a name whose addresses are base URLs."""

    base: str
    name: str
    port: int
    is_dns: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `http://host:port`, `https://host:port` or `dns+http://name:port`.

        Raises:
            ValueError: anything else.
        """
        is_dns = text.startswith(_DNS)
        url = urlsplit(text.removeprefix(_DNS))
        if url.scheme not in ({"http"} if is_dns else {"http", "https"}) or not url.hostname:
            raise ValueError(f"a replica is http://host:port, https://host:port or dns+http://name:port, not {text!r}")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("a replica's URL holds no credentials, query or fragment")
        url.hostname.encode("idna")  # raises UnicodeError, a ValueError, for what no resolver takes
        port = url.port or (443 if url.scheme == "https" else 80)
        return cls(base=url.geturl().rstrip("/"), name=url.hostname, port=port, is_dns=is_dns)

    def at(self, address: str) -> str:
        """The base URL of the replica at an address."""
        host = f"[{address}]" if isinstance(ip_address(address), IPv6Address) else address
        return f"http://{host}:{self.port}{urlsplit(self.base).path}"


def _checked(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        Target.parse(text)
    return texts


Targets = Annotated[tuple[str, ...], AfterValidator(_checked)]
"""What settings and configuration name replicas by."""


class Discovery:
    """The base URLs of all targets. A name that cannot be resolved keeps its last addresses."""

    def __init__(self, targets: Sequence[str], *, resolver: Resolve = resolve) -> None:
        self._targets = tuple(Target.parse(text) for text in targets)
        self._resolve = resolver
        self._known: dict[Target, frozenset[str]] = {}
        self._failing: dict[Target, str] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with names whose last resolution failed."""
        return tuple(f"{target.name} cannot be resolved: {why}" for target, why in self._failing.items())

    def retarget(self, targets: Sequence[str]) -> None:
        """Look for these from now on; a name that stays keeps its last addresses."""
        self._targets = tuple(Target.parse(text) for text in targets)
        for gone in self._failing.keys() - set(self._targets):
            del self._failing[gone]

    async def urls(self) -> frozenset[str]:
        """Ask again; never raises for a name without an answer."""
        return frozenset().union(*await asyncio.gather(*map(self._urls_of, self._targets)))

    async def _urls_of(self, target: Target) -> frozenset[str]:
        if not target.is_dns:
            return frozenset({target.base})
        try:
            addresses = await self._resolve(target.name, target.port)
        except OSError as error:
            self._failed(target, error)
        else:
            self._known[target] = frozenset(map(target.at, addresses))
            if self._failing.pop(target, None) is not None:
                _log.info("name resolved again", extra={"fields": {"name": target.name}})
        return self._known.get(target, frozenset())

    def _failed(self, target: Target, error: OSError) -> None:
        if target not in self._failing:  # once per failure, not once per attempt
            fields = {"name": target.name, "reason": repr(error), "kept": len(self._known.get(target, ()))}
            _log.warning("name cannot be resolved", extra={"fields": fields})
        self._failing[target] = error.strerror or "no answer in time"


def changes(before: Set[str], after: Set[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What was added and what was removed."""
    return frozenset(after - before), frozenset(before - after)
