"""The supervisor: how long what it stops may take, and what it writes."""

import asyncio

import pytest

from service.runtime import launch, profiles
from service.runtime.child import Child, ChildError
from service.up import Stack, run_runtime


class Ending(Child):
    """A child that never starts, and remembers how it was stopped."""

    grace_s: float | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name, ["true"], {}, None, lambda _: None)

    async def start(self) -> None:
        raise ChildError("it ended")

    async def stop(self, grace_s: float) -> None:
        self.grace_s = grace_s


def test_a_runtime_has_its_profiles_time_to_finish_its_requests() -> None:
    stack = Stack(profiles.load("cpu", {"drain_timeout_s": 60}))
    runtime = Ending("runtime")
    with pytest.raises(ChildError):
        asyncio.run(run_runtime(stack, runtime))
    assert runtime.grace_s == 60


def test_only_a_runtime_that_hides_its_output_keeps_it_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AERIE_CPU_OPS", "torch")
    config = profiles.load("cpu", {})
    alone, with_a_gateway = (
        launch.runtime(config, lambda _: None, lambda _: None, keep_log=keep) for keep in (False, True)
    )
    assert alone.log is None
    assert with_a_gateway.log is not None
