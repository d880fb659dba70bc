"""The status page in a real Chromium, before a real SGLang runtime that speculates."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.browser import OPEN, Page, browser, missing
from tests.e2e.servers import Server

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

PROMPT = "Write a Python function that adds two numbers."
TAB, CONTROL, ENTER = "\ue004", "\ue009", "\ue007"

TOO_FAINT = """
const channels = (colour) => (colour.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (channels(colour)[3] !== 0) return colour;
  }
};
const contrast = (element) => {
  const { color, fill } = getComputedStyle(element);
  const [one, other] = [light(element instanceof SVGElement ? fill : color), light(ground(element))];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
};
const speaks = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
  && element.checkVisibility() && !element.disabled && !(element instanceof SVGTitleElement);
return [...document.body.querySelectorAll("*")].filter(speaks)
  .filter((element) => contrast(element) < 4.5)
  .map((element) => `${element.tagName}.${element.getAttribute("class")} ${contrast(element).toFixed(2)}`);
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(window: Page, server: Server) -> Page:
    window.width(1180)
    window.scheme("light")
    window.open(f"{server.url}/")
    window.forget()
    return window


def send(page: Page, prompt: str = PROMPT, limit: int = 48) -> None:
    page.type("#prompt", prompt)
    page.type("#limit", str(limit))
    page.click("#send")


def ended(page: Page) -> bool:
    return bool(
        page.script("return !document.querySelector('#reply').hidden && !document.querySelector('#send').disabled")
    )


def answered(page: Page, prompt: str = PROMPT, limit: int = 48) -> None:
    send(page, prompt, limit)
    page.until(lambda: ended(page), "the end of the answer")


def result(page: Page) -> dict[str, str]:
    found: dict[str, str] = page.script(
        "return Object.fromEntries([...document.querySelectorAll('#result .tile')]"
        ".map((tile) => [tile.querySelector('dt').textContent, tile.querySelector('b').textContent]))"
    )
    return found


def test_it_shows_the_runtime_and_loads_nothing_from_elsewhere(page: Page, server: Server) -> None:
    page.open(f"{server.url}/")
    assert page.text("#state").startswith("Ready")
    assert "smollm2-135m-instruct" in page.text("#pools")
    assert "EAGLE3" in page.text("#pools")
    answered(page)
    page.until(lambda: f"{server.url}/status/fragment" in (page.listen() or page.loaded), "a refresh")
    assert page.origins() == {server.url}
    assert page.console == []


def test_accepted_drafts_are_highlighted_and_the_figures_are_the_requests_own(page: Page, server: Server) -> None:
    answered(page)
    assert page.text("#outcome") == "The answer ended at the most tokens that it was allowed."
    pieces = page.script(
        "return [...document.querySelectorAll('.pass[title]')]"
        ".map((piece) => [piece.textContent, piece.className, piece.title])"
    )
    body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
    headers = {"x-aerie-include": "speculation"}
    whole = server.client.post(
        f"{server.url}/v1/chat/completions", json=body | {"max_tokens": 48}, headers=headers
    ).json()
    assert "".join(text for text, _, _ in pieces) == whole["choices"][0]["message"]["content"]
    figures, usage = whole["usage"]["speculation"], whole["usage"]
    shown = result(page)
    assert shown["Acceptance length"] == f"{figures['acceptance_length']:.2f}"
    assert shown["Verify passes"] == str(figures["verify_passes"])
    assert shown["Tokens"] == str(usage["completion_tokens"])
    drafts = [int(re.findall(r"(\d+) accepted", title)[0]) for _, _, title in pieces[1:]]
    assert [f"pass d{min(many, 3)}" for many in drafts] == [style for _, style, _ in pieces[1:]]
    assert 0 < sum(drafts) <= usage["completion_tokens"]
    assert "3 and more" in page.text("#shades")


def test_a_thought_is_told_from_the_answer(page: Page) -> None:
    """What SGLang's reasoning parsers stream, given to the page's own reader of events: this model does not think."""
    answered(page, limit=4)
    deltas = ({"reasoning_content": "Sums."}, {"reasoning_content": " Easy."}, {"content": "4"}, {"content": "."})
    page.script(
        "byId('answer').replaceChildren(); const told = {tokens: 0, pieces: 0, speculates: true};"
        "for (const delta of arguments[0]) take(JSON.stringify({choices: [{delta}]}), told)",
        deltas,
    )
    assert page.script("return byId('answer').textContent") == "Sums. Easy.\n\n4."
    thought = "return [...document.querySelectorAll('#answer .thought')].map((piece) => piece.textContent)"
    assert page.script(thought) == ["Sums.", " Easy."]


def test_an_answer_appears_while_it_is_made_and_can_be_stopped(page: Page, server: Server) -> None:
    send(page, "Tell me a long story about the sea.", limit=2000)
    page.until(lambda: page.script("return document.querySelectorAll('.pass[title]').length > 3"), "some pieces")
    assert not ended(page)
    page.click("#stop")
    page.until(lambda: ended(page), "the end")
    assert page.text("#outcome") == "Stopped."
    assert int(result(page)["Tokens"]) < 2000
    page.until(lambda: server.metric("aerie_requests_in_flight", server.url) == 0, "the abort")


def test_an_error_is_a_sentence_with_what_finds_it_in_the_log(page: Page) -> None:
    answered(page, limit=100_000)
    assert re.fullmatch(r".*\. \(400 \w+, request req-[0-9a-f]+\)", page.text("#outcome"))
    assert result(page) == {}
    page.script("document.querySelector('#key').value = '\\u2603'")
    answered(page)
    assert page.text("#outcome").startswith("The request failed: ")


def test_what_changes_is_refreshed_unless_nobody_looks(page: Page, server: Server) -> None:
    answered(page, limit=4)  # there is something to open, and to keep open
    page.until(lambda: page.script("return Boolean(document.querySelector('summary'))"), "the numbers")
    page.script(OPEN)
    body = {"model": "smollm2-135m-instruct", "prompt": "Red, green and", "max_tokens": 4}
    before = page.text("#figures")
    assert httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=60).is_success
    page.until(lambda: page.text("#figures") != before, "the new figures")
    assert page.script("return document.querySelector('details').open")
    assert page.script("return document.activeElement.tagName") == "SUMMARY"
    hide = "Object.defineProperty(document, 'hidden', {get: () => arguments[0], configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange')); return timer === null"
    assert page.script(hide, True)
    page.script(hide, False)
    page.until(lambda: page.script("return timer !== null"), "the next refresh")


def test_keys_and_prompts_stay_in_the_page(page: Page) -> None:
    page.script("document.querySelector('#key').value = 'a-key'")
    answered(page, limit=4)
    kept = "return [localStorage.length, sessionStorage.length, document.cookie, location.search]"
    assert page.script(kept) == [0, 0, "", ""]
    page.listen()
    assert not [url for url in page.loaded if "a-key" in url]


def test_it_is_used_with_the_keyboard(page: Page) -> None:
    page.press(TAB)
    assert page.script("return document.activeElement.hash") == "#try"
    page.press(ENTER)
    page.press(TAB)
    assert page.script("return document.activeElement.id") == "prompt"
    page.type("#limit", "4")
    page.press(CONTROL, ENTER)
    page.until(lambda: ended(page), "the answer")
    assert page.text("#answer")


@pytest.mark.parametrize("width", [320, 390, 768, 1180])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    answered(page, limit=16)
    page.script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.width(width, phone=width < 500)
    assert page.script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(page: Page, scheme: str) -> None:
    page.scheme(scheme)
    answered(page, limit=32)
    assert page.script(TOO_FAINT) == []
    assert page.script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
