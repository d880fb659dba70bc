"""Order of the suite: what is fast runs first, what starts real servers last; and the server that most of these ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.servers import Server, aerie

E2E = Path(__file__).parent / "e2e"
ENDS_THE_SERVER = E2E / "test_serving.py"
"""How it ends is among its tests: they come last of all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: (item.get_closest_marker("e2e") is not None, item.path == ENDS_THE_SERVER))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """`aerie up` as it comes; idle it sleeps, so it is in nobody's way."""
    with aerie("up") as started:
        yield started
