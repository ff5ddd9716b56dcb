"""The documentation of the API: /openapi.json, and /docs, which renders it with assets of this server."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from flask import current_app

from gateway.api.http.routes import ApiResponse, Routes
from gateway.api.openapi.document import document

ASSETS = files("flask_swagger_ui") / "dist"
ASSET_CACHE_SECONDS = 3600
SCRIPT = "text/javascript; charset=utf-8"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Scripts only from this server. Swagger UI needs inline styles."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Payment gateway API</title>
  <link rel="stylesheet" href="/docs/swagger-ui.css">
  <link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

routes = Routes("Service")


@routes.get("/openapi.json", public=True, responses={200: None})
def openapi() -> ApiResponse:
    """Return the OpenAPI 3.1 document of this API."""
    extensions: dict[str, Any] = current_app.extensions
    if "openapi" not in extensions:
        extensions["openapi"] = json.dumps(document(extensions["endpoints"])).encode()
    return ApiResponse(extensions["openapi"])


@routes.get("/docs", public=True, responses={200: None}, media_type="text/html; charset=utf-8")
def docs() -> ApiResponse:
    """Return a page that renders /openapi.json."""
    return ApiResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})


@cache
def _content(name: str) -> bytes:
    """Return an asset, cached so that concurrent requests share one copy in memory."""
    return (ASSETS / name).read_bytes()


def _asset(name: str) -> ApiResponse:
    return ApiResponse(_content(name), headers={"Cache-Control": f"public, max-age={ASSET_CACHE_SECONDS}"})


@routes.get("/docs/swagger-ui.css", public=True, responses={200: None}, media_type="text/css", documented=False)
def docs_style() -> ApiResponse:
    """Return the style sheet of Swagger UI."""
    return _asset("swagger-ui.css")


@routes.get("/docs/swagger-ui-bundle.js", public=True, responses={200: None}, media_type=SCRIPT, documented=False)
def docs_script() -> ApiResponse:
    """Return the script of Swagger UI."""
    return _asset("swagger-ui-bundle.js")


@routes.get("/docs/favicon-32x32.png", public=True, responses={200: None}, media_type="image/png", documented=False)
def docs_icon() -> ApiResponse:
    """Return the icon of the page."""
    return _asset("favicon-32x32.png")


@routes.get("/docs/start.js", public=True, responses={200: None}, media_type=SCRIPT, documented=False)
def docs_start() -> ApiResponse:
    """Return the script that starts Swagger UI: the policy of the page allows no inline scripts."""
    return ApiResponse(START)
