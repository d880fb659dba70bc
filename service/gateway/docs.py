"""The OpenAPI document as a page to read and try, without a CDN: the assets come from the package fastapi-offline.

Owns the page. Refuses to own the document (openapi.py).
"""

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

DOCUMENT_URL = "/openapi.json"
_ASSETS_URL = "/docs/assets"
_QUIET = {"validatorUrl": None, "tryItOutEnabled": True}
"""Swagger UI would show the document to a validator on the internet."""

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def page() -> HTMLResponse:
    """Swagger UI; paths are relative, so that a proxy may put the gateway under a prefix."""
    return get_swagger_ui_html(
        openapi_url=DOCUMENT_URL.removeprefix("/"),
        title="Aerie gateway",
        oauth2_redirect_url=None,
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon.png",
        swagger_ui_parameters=_QUIET,
    )


def add_to(app: FastAPI) -> None:
    """The page and its assets."""
    app.include_router(router)
    app.mount(_ASSETS_URL, StaticFiles(packages=[("fastapi_offline", "static")]))
