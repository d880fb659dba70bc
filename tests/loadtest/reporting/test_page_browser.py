"""The page in a real Chromium, from a file: as it is opened from a pipeline's artifacts."""

from collections.abc import Iterator

import pytest

from loadtest.reporting import page, view
from tests.e2e.browser import OPEN, Page, browser, missing
from tests.e2e.test_status_page_browser import TOO_FAINT
from tests.loadtest.reporting.documents import comparison, comparison_of, load, load_of, restless

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

WIDER = "return document.documentElement.scrollWidth - innerWidth"
DRAWN = """
return [...document.querySelectorAll("figure")].map((figure) => figure.querySelector("svg")?.getBoundingClientRect())
  .filter((box) => !box || box.width < 200 || box.height < 80 || box.right > innerWidth).length
"""
COLOUR = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    document = restless(comparison(("mt_bench", "gsm8k"), (1, 4))) | {"partial": True}
    contents = [*view.contents(comparison_of(document)), *view.contents(load_of(load()))]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.page(contents), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_renders_wide_and_narrow_light_and_dark(window: Page, address: str, width: int, scheme: str) -> None:
    window.width(width, phone=width < 500)
    window.scheme(scheme)
    window.open(address)
    window.script(OPEN)
    assert window.script(WIDER) <= 0
    assert window.script(DRAWN) == 0
    assert window.script(TOO_FAINT) == []
    assert "Partial" in window.text(".warnings")


def test_it_loads_nothing_and_complains_of_nothing(window: Page, address: str) -> None:
    window.forget()
    window.open(address)
    window.listen()
    assert window.console == []
    assert [url for url in window.loaded if not url.startswith("data:")] == [address]


def test_on_paper_it_is_light(window: Page, address: str) -> None:
    window.scheme("dark")
    window.open(address)
    dark = window.script(COLOUR, "figure")
    window.chrome("Emulation.setEmulatedMedia", media="print", features=[])
    assert window.script(COLOUR, "figure") == "rgb(255, 255, 255)" != dark
    window.chrome("Emulation.setEmulatedMedia", media="")
