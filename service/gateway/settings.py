"""The gateway's settings: read once from the environment, frozen, strict.

Owns names, units, defaults and limits. Refuses to own anything that reads them later: whoever needs a setting gets it.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.gateway.cors import Origin
from service.gateway.discovery import Targets

PREFIX = "AERIE_"

# Variables of Aerie's other parts, which may stand in the same environment.
FOREIGN_VARIABLES = frozenset({"AERIE_CACHE_DIR", "AERIE_CPU_ISA", "AERIE_CPU_OPS", "AERIE_PROFILE"})


class Settings(BaseSettings):
    """Each field is an environment variable: `drain_timeout_s` is `AERIE_DRAIN_TIMEOUT_S`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that serve this port side by side; what each has for itself: docs/gateway.md."""
    upstream: Annotated[Targets, NoDecode] = ("http://127.0.0.1:30000",)
    """Base URLs of SGLang runtimes that serve alike, with commas between; `dns+http://NAME:PORT` is every address."""
    config: Path | None = None
    """A YAML file of pools, policy and queue, instead of `AERIE_UPSTREAM`: docs/gateway.md. Read again as keys are."""
    calibration: Path | None = None
    """What `aerie-bench calibrate` has measured of these upstreams. Read again on SIGHUP."""
    hardware: str | None = None
    """What these upstreams run on, in the calibration's words: one of other hardware is then refused."""
    keys: Path | None = None
    """A YAML file of API keys; without it everyone may ask. Read again when it changes, and on SIGHUP."""

    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = ()
    """Web pages of these origins (with commas between; `*`: of any) may ask and read answers; without it, none."""
    docs: bool = True
    """Serve /openapi.json, and /docs, a page that shows it without the internet. Open, like /readyz."""
    status_page: bool = True
    """Serve a page at / that shows how the gateway does, with a chat box. Open, like /metrics."""

    header_limit_bytes: int = Field(default=32 * 2**10, ge=1024)
    """Of a request's line and headers together."""
    header_timeout_s: float = Field(default=10, gt=0)
    """A request's head must arrive within this time; so must the first byte on a new connection."""
    body_limit_bytes: int = Field(default=4 * 2**20, ge=1024)
    """4 MiB is the text of about a million tokens."""
    body_timeout_s: float = Field(default=30, gt=0)
    """A request's whole body must arrive within this time."""

    connect_timeout_s: float = Field(default=5, gt=0)
    response_timeout_s: float = Field(default=600, gt=0)
    """From the request to a stream's first event, or to the whole of an answer that is not streamed."""
    stall_timeout_s: float = Field(default=60, gt=0)
    """Between two chunks of a stream, on either side; a client that reads nothing for this long is cut off."""
    tokenize_timeout_s: float = Field(default=10, gt=0)
    """From a question to /v1/tokenize or /v1/detokenize to its answer."""
    abort_timeout_s: float = Field(default=5, gt=0)

    probe_interval_s: float = Field(default=1, gt=0)
    probe_timeout_s: float = Field(default=3, gt=0)
    describe_timeout_s: float = Field(default=10, gt=0)
    """For /server_info, which waits for the scheduler."""

    drain_notice_s: float = Field(default=0, ge=0)
    """After a signal: /readyz answers 503 for this long before the listener closes, so that load balancers notice."""
    drain_timeout_s: float = Field(default=30, ge=0)
    """After the listener closed: running requests may finish within this time."""
    keep_alive_timeout_s: int = Field(default=75, ge=1)
    """A connection may be idle for this long between two requests."""

    tracing: bool = False
    """OpenTelemetry spans, sent as the `OTEL_*` variables say; needs `aerie[otel]`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    @field_validator("upstream", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_once_where_runtimes_are(self) -> Self:
        if self.config is not None and "upstream" in self.model_fields_set:
            raise ValueError("config and upstream both say where the runtimes are; keep one of them")
        for name in ("calibration", "hardware"):
            if self.config is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} is of upstream; with config, each pool names its own in that file")
        return self

    @model_validator(mode="after")
    def _knows_every_variable(self) -> Self:
        known = {PREFIX + name.upper() for name in type(self).model_fields} | FOREIGN_VARIABLES
        for name in os.environ:
            if name.upper().startswith(PREFIX) and name.upper() not in known:
                raise ValueError(f"unknown environment variable {name}; known: {', '.join(sorted(known))}")
        return self
