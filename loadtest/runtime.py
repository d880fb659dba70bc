"""A runtime as it describes itself, and whether two of them may be compared.

Owns what is read of `/server_info` and `/v1/models`, and the refusals that follow from it. Refuses to own HTTP and
measuring. Facts of SGLang 0.5.23: docs/sglang.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from loadtest.client import Client
from loadtest.curve import Flags
from loadtest.errors import EndpointError, UnfitPair
from loadtest.tree import ADAPTIVE


@dataclass(frozen=True)
class Runtime:
    """What matters here of a runtime's configuration."""

    url: str
    models: tuple[str, ...]
    version: str
    device: str
    algorithm: str | None
    """None without speculation."""
    tree: str
    flags: Flags
    max_running: int | None
    """Requests that run at a time; None if it does not say."""

    @classmethod
    def parse(cls, url: str, server: dict[str, Any], models: dict[str, Any]) -> Self:
        """From /server_info and /v1/models.

        Raises:
            EndpointError: something that a curve must say is missing.
        """
        try:
            algorithm = server.get("speculative_algorithm")
            return cls(
                url=url,
                models=_names(models),
                version=_text(server["version"]),
                device=_text(server["device"]),
                algorithm=None if algorithm in (None, "NONE") else algorithm,
                tree=_tree(server),
                flags=Flags.model_validate({name: server[name] for name in Flags.model_fields}),
                max_running=_max_running(server),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "in unknown words"
            raise EndpointError(f"{url}: /server_info or /v1/models: {missing}") from error

    @property
    def configuration(self) -> dict[str, object]:
        """What two runtimes must share."""
        return {"sglang_version": self.version, "device": self.device, **self.flags.model_dump()}


def _names(models: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_text(card["id"]) for card in models["data"])


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r} is no name")
    return value


def _tree(server: dict[str, Any]) -> str:
    """SGLang's chains follow the batch size under speculative_adaptive, Aerie's trees on CPU with draft_p_min."""
    numbers = [server.get(f"speculative_{name}") for name in ("num_steps", "eagle_topk", "num_draft_tokens")]
    states = server.get("internal_states") or []
    adaptive = server.get("speculative_adaptive") or any(state.get("speculative_draft_p_min") for state in states)
    return "/".join(map(str, numbers)) + (ADAPTIVE if adaptive else "")


def _max_running(server: dict[str, Any]) -> int | None:
    """As resolved at start-up; per data-parallel rank, the least of them."""
    states = [state.get("effective_max_running_requests_per_dp") for state in server.get("internal_states") or []]
    known = [int(number) for number in [server.get("max_running_requests"), *states] if number]
    return min(known, default=None)


async def describe(client: Client) -> Runtime:
    """Ask a runtime for its description.

    Raises:
        EndpointError: it cannot be reached, or does not describe itself.
    """
    models = await client.document("/v1/models")
    try:
        server = await client.document("/server_info")
    except EndpointError as error:
        raise EndpointError(
            f"{error}: a curve says what it is valid for, and reads that there; name a runtime, not a gateway"
        ) from error
    return Runtime.parse(client.url, server, models)


async def served_by(client: Client) -> tuple[str, ...]:
    """The models of any OpenAI endpoint.

    Raises:
        EndpointError: it cannot be reached, or does not say.
    """
    models = await client.document("/v1/models")
    try:
        return _names(models)
    except (KeyError, TypeError) as error:
        raise EndpointError(f"{client.url}: /v1/models: in unknown words") from error


def choose_model(url: str, models: Sequence[str], wanted: str | None) -> str:
    """The model to measure: the wanted one, else the first.

    Raises:
        EndpointError: it is not served.
    """
    if not models:
        raise EndpointError(f"{url}: serves no model")
    model = wanted or models[0]
    require_model(url, models, model)
    return model


def require_model(url: str, models: Sequence[str], model: str) -> None:
    """Refuse an endpoint that serves other models.

    Raises:
        EndpointError: it does not serve this one.
    """
    if model not in models:
        raise EndpointError(f"{url}: serves {', '.join(models) or 'nothing'}, not {model}")


def require_pair(baseline: Runtime, speculative: Runtime | None, batch_sizes: Sequence[int]) -> None:
    """Refuse two runtimes whose difference would not be speculation alone.

    Raises:
        UnfitPair: the sentence says why.
    """
    if baseline.algorithm:
        raise UnfitPair(f"{baseline.url}: speculates ({baseline.algorithm}): a baseline is started without")
    require_room(baseline, batch_sizes)
    if speculative is None:
        return
    if not speculative.algorithm:
        raise UnfitPair(f"{speculative.url}: does not speculate: --speculative names a runtime that does")
    for name, value in baseline.configuration.items():
        other = speculative.configuration[name]
        if other != value:
            raise UnfitPair(f"the runtimes differ in more than speculation: {name} is {value} and {other}")
    require_room(speculative, batch_sizes)


def require_room(runtime: Runtime, batch_sizes: Sequence[int]) -> None:
    """Refuse a runtime that cannot run such batches at once.

    Raises:
        UnfitPair: it would let requests wait.
    """
    if runtime.max_running is not None and runtime.max_running < max(batch_sizes):
        raise UnfitPair(
            f"{runtime.url}: runs {runtime.max_running} requests at a time, so that a batch of {max(batch_sizes)} "
            "would wait: start it with a larger --max-running-requests, or leave that batch size out"
        )
