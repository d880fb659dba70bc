"""Chromium as a test sees it: driven through chromedriver's own HTTP protocol (W3C WebDriver), nothing in between."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from loadtest.launch import free_port

PATIENCE_S = 120
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing() -> str | None:
    """Which program is not here, and what to install."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else None


class Page:
    """One window, with what its console said and what it loaded."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.console: list[str] = []
        self.loaded: list[str] = []

    def _tell(self, path: str, **fields: object) -> Any:
        answer = self._client.post(path, json=fields)
        assert answer.is_success, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self._tell("/url", url=url)

    def script(self, code: str, *arguments: object) -> Any:
        return self._tell("/execute/sync", script=code, args=arguments)

    def chrome(self, command: str, **params: object) -> Any:
        """A command of Chromium's own protocol."""
        return self._tell("/goog/cdp/execute", cmd=command, params=params)

    def text(self, selector: str) -> str:
        found: str = self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return found

    def type(self, selector: str, text: str) -> None:
        element = self._element(selector)
        self._tell(f"/element/{element}/clear")
        self._tell(f"/element/{element}/value", text=text)

    def click(self, selector: str) -> None:
        self._tell(f"/element/{self._element(selector)}/click")

    def _element(self, selector: str) -> str:
        found: str = self._tell("/element", using="css selector", value=selector)[_ELEMENT]
        return found

    def press(self, *held: str) -> None:
        """Keys, all held at once, on whatever has the focus."""
        keys = [{"type": "keyDown", "value": key} for key in held]
        keys += [{"type": "keyUp", "value": key} for key in reversed(held)]
        self._tell("/actions", actions=[{"type": "key", "id": "keyboard", "actions": keys}])

    def width(self, pixels: int, height: int = 800, *, phone: bool = False) -> None:
        self.chrome(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1.5, mobile=phone
        )

    def scheme(self, value: str) -> None:
        self.chrome("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self, height: int | None = None) -> bytes:
        """The page as PNG, as far down as this."""
        width, whole = self.script("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, whole), "scale": 1}
        return b64decode(self.chrome("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that must become true; the deadline only bounds a failure."""
        deadline = time.monotonic() + PATIENCE_S
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{what} did not become true: {self.text('body')}"
            time.sleep(0.1)
        return result

    def listen(self) -> None:
        """Take over what was logged since the last time: complaints, and addresses."""
        self.console += [entry["message"] for entry in self._tell("/se/log", type="browser")]
        for entry in self._tell("/se/log", type="performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.loaded.append(message["params"]["request"]["url"])

    def forget(self) -> None:
        """What was logged so far."""
        self.listen()
        self.console, self.loaded = [], []

    def origins(self) -> set[str]:
        """Where everything came from that it loaded."""
        self.listen()
        return {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, self.loaded)}


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A fresh Chromium with a profile of its own; both are gone with the block."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with _session(f"http://127.0.0.1:{port}", [*_FLAGS, f"--user-data-dir={profile}"]) as page:
                page.open("about:blank")
                page.forget()  # the start page of Chromium itself
                yield page
        finally:
            driver.terminate()
            driver.wait(30)


@contextlib.contextmanager
def _session(driver: str, flags: list[str]) -> Iterator[Page]:
    options = {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        deadline = time.monotonic() + PATIENCE_S
        while not _ready(client, driver):
            assert time.monotonic() < deadline, "chromedriver does not answer"
            time.sleep(0.1)
        answer = client.post(f"{driver}/session", json={"capabilities": {"alwaysMatch": options}})
        assert answer.is_success, answer.text
        client.base_url = session = httpx.URL(f"{driver}/session/{answer.json()['value']['sessionId']}")
        try:
            yield Page(client)
        finally:
            assert client.delete(session).is_success, "or Chromium lives on"


def _ready(client: httpx.Client, driver: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(client.get(f"{driver}/status").json()["value"]["ready"])
    return False


OPEN = "const found = document.querySelector('summary'); found?.focus(); found?.click()"
"""The first table of numbers; at once, since a refresh may put another in its place."""


def take_pictures(url: str, folder: Path) -> None:
    """The status page with an answer, for the docs."""
    with browser() as page:
        page.open(f"{url}/")
        page.width(1180)
        page.scheme("light")
        page.script(OPEN)
        page.click("#send")
        page.until(lambda: page.text("#result"), "the end of the answer")
        time.sleep(5)  # a refresh
        (folder / "status-page-desktop.png").write_bytes(page.picture())
        page.scheme("dark")
        (folder / "status-page-dark.png").write_bytes(page.picture())
        page.scheme("light")
        page.width(390, phone=True)
        (folder / "status-page-phone.png").write_bytes(page.picture(1700))


if __name__ == "__main__":
    take_pictures(sys.argv[1], Path(sys.argv[2]))
