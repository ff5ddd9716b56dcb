"""Which requests bring a file, and whether it is received at all: only from a caller who may send it."""

from collections.abc import Iterable

from flask import Flask

from gateway.api import access
from gateway.api.http import Endpoint
from gateway.api.server.heads import Environ
from gateway.errors import GatewayError


class UploadGate:
    """The calls of `app` that take a file."""

    def __init__(self, app: Flask, endpoints: Iterable[Endpoint]) -> None:
        self._app = app
        self._endpoints = {
            (endpoint.method, endpoint.path): endpoint for endpoint in endpoints if endpoint.upload is not None
        }

    def max_bytes(self, environ: Environ) -> int | None:
        """Return the size that the request's file may have; None of a request that brings no file."""
        endpoint = self._endpoints.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return None if endpoint is None or endpoint.upload is None else endpoint.upload.max_bytes

    def admits(self, environ: Environ) -> bool:
        """Whether the caller may send it. The application decides again, and says why not."""
        endpoint = self._endpoints[environ["REQUEST_METHOD"], environ["PATH_INFO"]]
        with self._app.app_context():
            try:
                caller = access.authenticate(environ.get("HTTP_AUTHORIZATION", ""))
                if endpoint.scope is not None:
                    access.demand(caller, endpoint.scope)
            except GatewayError:
                return False
        return True
