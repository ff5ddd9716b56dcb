"""The ASGI application of the Procfile's `api`: it receives a whole request, then processes it in a thread.

A slow client occupies memory of the event loop, never a thread (docs/decisions/http-server.md).
"""

import io
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from gateway.api.server import rejections, sockets
from gateway.api.server.headers import Environ, environ_of
from gateway.api.server.request_bodies import BodyReceiver, Receive
from gateway.api.server.responses import ResponseSender, Send, WsgiResponse, call_application
from gateway.api.server.threads import ThreadPool
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from gateway.api.server.uploads import UploadGate

LIVENESS = frozenset({"/health/live"})
"""Paths with a dedicated thread: a process is alive even if all its other threads are busy."""


class Server:
    """An ASGI application that serves a WSGI application."""

    def __init__(
        self,
        application: "WSGIApplication",
        *,
        threads: int,
        trusted_proxies: int,
        body_seconds: float,
        uploads: "UploadGate",
    ) -> None:
        self._application = application
        self._threads = ThreadPool(threads, "request")
        self._liveness = ThreadPool(1, "liveness")
        self._bodies = BodyReceiver(trusted_proxies=trusted_proxies, seconds=body_seconds)
        self._responses = ResponseSender(self._threads)
        self._uploads = uploads
        self._served = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Process one request."""
        if not self._served:
            self._served = True
            sockets.end_unread_responses(int(scope["server"][1]))
        began = time.perf_counter()
        environ: Environ = {}
        try:
            environ = environ_of(scope)
            response = await self._respond(environ, receive)
        except GatewayError as error:
            response = rejections.rejection(error, scope["method"], environ.get("HTTP_X_REQUEST_ID", ""), began)
        except Exception:  # noqa: BLE001  # Flask handles the errors of the application: this one is of the adapter or the middleware
            logger.exception("Internal error")
            response = rejections.rejection(
                GatewayError(), scope["method"], environ.get("HTTP_X_REQUEST_ID", ""), began
            )
        await self._responses.send(response, receive, send, partial(self._bodies.client_of, environ))

    async def _respond(self, environ: Environ, receive: Receive) -> WsgiResponse:
        max_bytes = self._uploads.max_bytes(environ)
        if max_bytes is None:
            body = await self._bodies.receive(environ, receive)
        elif await self._threads.run(partial(self._uploads.admits, environ)):
            body = await self._bodies.receive_upload(environ, receive, max_bytes)
        else:
            body = io.BytesIO()  # the application rejects it without reading its body
        environ["wsgi.input"] = body
        threads = self._liveness if environ["PATH_INFO"] in LIVENESS else self._threads
        try:
            return await threads.run(partial(call_application, self._application, environ))
        finally:
            body.close()
