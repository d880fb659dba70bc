"""/docs works where there is no internet: everything it loads comes from the gateway."""

import re

import pytest

from tests.service.gateway.conftest import gateway_before


def test_the_page_loads_nothing_from_elsewhere_and_all_it_loads_is_there(gateway):
    page = gateway.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|[\"']//", page.text)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 3, "script, style, icon"
    for link in [*links, re.search(r'url: "([^"]+)"', page.text.replace("'", '"'))[1]]:
        answer = gateway.get(f"/{link}")
        assert answer.is_success, link
        assert answer.content
    assert '"validatorUrl": null' in page.text


def test_the_assets_are_of_swagger_ui_and_a_missing_one_is_an_error_like_any(gateway):
    assert b"SwaggerUIBundle" in gateway.get("/docs/assets/swagger-ui-bundle.js").content
    for name in ("nothing.js", "../__init__.py", "%2e%2e/__init__.py"):
        answer = gateway.get(f"/docs/assets/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/assets/swagger-ui.css"])
def test_it_can_be_turned_off(upstream, path):
    with gateway_before(upstream.url, docs=False) as client:
        assert client.get(path).status_code == 404
