"""The page at /docs: Swagger UI with every file from this process, for hosts and laptops without internet.

FastAPI's own page loads an unpinned script from a CDN. All addresses here are relative to the page, so that
it works behind the gateway and behind an SSH tunnel on any port.
"""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

#: What the page loads, and its media types: not guessed, because a guess depends on the host's mime.types.
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_GUARDS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def add_docs_page(app: FastAPI) -> None:
    """Serve the page at /docs and its files below it."""
    html = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
            # Swagger UI else asks a public service to check the schema.
            swagger_ui_parameters={"validatorUrl": None},
        ).body
    ).decode()
    headers = {**_GUARDS, "Content-Security-Policy": content_security_policy(html)}
    folder = Path(str(files("fastapi_offline"))) / "static"
    router = APIRouter(include_in_schema=False)

    @router.api_route("/docs", methods=["GET", "HEAD"])
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    def add_asset(name: str, media_type: str) -> None:
        @router.api_route(f"/docs/{name}", methods=["GET", "HEAD"])
        async def asset() -> FileResponse:
            return FileResponse(folder / name, media_type=media_type, headers=_GUARDS)

    for name, media_type in ASSETS.items():
        add_asset(name, media_type)
    app.include_router(router)


def content_security_policy(html: str) -> str:
    """Return a policy under which a browser loads nothing from elsewhere and runs only the page's scripts.

    Inline scripts are allowed by their hash. Inline styles are allowed as such: Swagger UI writes them as it
    draws.
    """
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in _INLINE_SCRIPT.findall(html)
    ]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            # Icons in the stylesheet are data: URLs.
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
