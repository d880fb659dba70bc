"""The servers of these tests start as a user's do: without what other tests left in this process's environment."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def users_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AERIE_CPU_OPS", raising=False)  # set for the operators' own tests
        yield
