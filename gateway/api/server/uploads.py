"""Decide which requests may upload a file: a file is received only from authorized callers."""

from collections.abc import Iterable

from flask import Flask

from gateway.api.access import tokens
from gateway.api.http.routes import Endpoint
from gateway.api.server.headers import Environ
from gateway.errors import GatewayError


class UploadGate:
    """The endpoints of `app` that accept a file."""

    def __init__(self, app: Flask, endpoints: Iterable[Endpoint]) -> None:
        self._app = app
        self._endpoints = {
            (endpoint.method, endpoint.path): endpoint for endpoint in endpoints if endpoint.upload is not None
        }

    def max_bytes(self, environ: Environ) -> int | None:
        """Return the maximum size of the request's file; None if the endpoint accepts no file."""
        endpoint = self._endpoints.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return None if endpoint is None or endpoint.upload is None else endpoint.upload.max_bytes

    def admits(self, environ: Environ) -> bool:
        """Return whether the caller may upload. The application checks again and returns the error."""
        endpoint = self._endpoints[environ["REQUEST_METHOD"], environ["PATH_INFO"]]
        with self._app.app_context():
            try:
                caller = tokens.authenticate(environ.get("HTTP_AUTHORIZATION", ""))
                if endpoint.scope is not None:
                    tokens.require_scopes(caller, endpoint.scope)
            except GatewayError:
                return False
        return True
