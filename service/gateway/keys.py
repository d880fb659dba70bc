"""API keys: who a request comes from, and what that one may do.

Owns a key's shape, telling a presented key from all others, and making a new one. Refuses to own the file that keys
stand in (keyfile.py) and the counting of what they use (limits.py).

A key is 256 random bits, so its plain SHA-256 may be stored: salts and slow hashes protect what can be guessed. One
header is read, `authorization: Bearer KEY`, as OpenAI's clients send it; a second one (x-api-key) would need a rule for
requests that carry both, and every proxy between knows to keep the first out of its logs.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from service.gateway.errors import Forbidden, Unauthorized
from service.gateway.policy import Mode
from service.gateway.strict_yaml import Section

PREFIX = "aerie-"
KEY_BYTES = 32

_BEARER = re.compile(r"bearer +([a-z0-9._~+/=-]{1,256})", re.ASCII | re.IGNORECASE)  # RFC 6750's b64token
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Limits(Section):
    """What a key may use; what is left out is not limited."""

    requests_per_s: Annotated[float, Field(ge=0.001, le=1_000_000)] | None = None
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    tokens_per_min: Annotated[int, Field(ge=1, le=1_000_000_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst limits nothing without requests_per_s")
        return self

    @property
    def requests_at_once(self) -> int | None:
        """`burst`, or one second's worth; None where requests are not limited."""
        return None if self.requests_per_s is None else self.burst or math.ceil(self.requests_per_s)


class Key(Section):
    """Who asks. `id` is for logs; `tenant_class` (`class` in the file) is for metrics, where labels are few."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
    models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    speculation: Annotated[Mode, Field(strict=False)] = Mode.AUTO
    priority: Literal["low", "normal", "high"] = "normal"
    limits: Limits = Limits()
    tenant_class: Annotated[str, Field(alias="class", pattern=r"^[a-z0-9_-]{1,32}$")] = "default"
    expires: date | None = None
    """The last day it works, in UTC."""

    @field_validator("speculation", mode="before")
    @classmethod
    def _undo_yaml(cls, value: object) -> object:
        """YAML 1.1 reads a bare on and off as booleans."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    def may_use(self, model: str) -> bool:
        """Whether this model is on the key's list; without a list, every one is."""
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        """Let the model pass.

        Raises:
            Forbidden: it is not on the key's list.
        """
        if not self.may_use(model):
            raise Forbidden(f"This API key may not use the model {model[:200]!r}.", param="model")


class StoredKey(Key):
    """A key as the file holds it: with its hash, which no representation shows."""

    sha256: str = Field(repr=False)

    @field_validator("sha256", mode="before")
    @classmethod
    def _is_hash(cls, value: object) -> str:
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise ValueError("must be the key's SHA-256 in quotes, 64 hexadecimal digits, and never the key itself")
        return value.lower()


ANONYMOUS = Key(id="anonymous")
"""Everyone, where no keys are asked for."""


def _today() -> date:
    return datetime.now(UTC).date()


class KeyRing:
    """The keys that are known."""

    def __init__(self, keys: Iterable[StoredKey], today: Callable[[], date] = _today) -> None:
        self.keys = tuple(keys)
        self._digests = tuple((bytes.fromhex(key.sha256), key) for key in self.keys)
        self._today = today

    def authenticate(self, authorization: str | None) -> Key:
        """Whose key the header holds. Takes equally long for every known and unknown key.

        Raises:
            Unauthorized: missing, malformed, unknown or expired.
        """
        if not authorization:
            raise Unauthorized("No API key provided: send it in the header authorization: Bearer KEY.")
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise Unauthorized("The authorization header is malformed: it must be Bearer, a space, and the API key.")
        presented = hashlib.sha256(bearer[1].encode()).digest()
        found: Key | None = None
        for digest, key in self._digests:
            if hmac.compare_digest(digest, presented):
                found = key
        if found is None:
            raise Unauthorized("Incorrect API key provided.")
        if found.expires is not None and self._today() > found.expires:
            raise Unauthorized(f"The API key has expired on {found.expires}.")
        return found


class Minted(NamedTuple):
    """A new key, to be shown once, and its entry in the file."""

    key: str
    entry: str


def mint(key_id: str) -> Minted:
    """A new random key. The id is quoted because YAML reads some ids (`on`, `007`) as something else than text.

    Raises:
        ValidationError: the id is not one.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    stored = StoredKey(id=key_id, sha256=hashlib.sha256(key.encode()).hexdigest())
    return Minted(key, f'  - id: "{stored.id}"\n    sha256: "{stored.sha256}"\n')
