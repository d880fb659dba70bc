"""Order of the suite: what is fast runs first, what starts real servers last; the server that most of these ask; and
which examples property-based tests try."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.e2e.servers import Server, aerie

E2E = Path(__file__).parent / "e2e"
ENDS_THE_SERVER = E2E / "test_serving.py"
"""How it ends is among its tests: they come last of all."""

# The same examples every time, so that what fails is what was changed; new ones are looked for on request
# (pytest --hypothesis-profile=search). No deadlines: a slow machine is no bug.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("same")


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
