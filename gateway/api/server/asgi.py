"""The ASGI application of the Procfile's `api`: it receives a whole request, then processes it in a thread.

A slow client occupies memory of the event loop, never a thread (docs/decisions/http-server.md).
"""

import io
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from loguru import logger

from gateway.api.server import refusals, sockets
from gateway.api.server.answers import Answers, Send, WsgiAnswer, call
from gateway.api.server.bodies import Bodies, Receive
from gateway.api.server.heads import Environ, environ_of
from gateway.api.server.threads import Threads
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from gateway.api.server.uploads import UploadGate

LIVENESS = frozenset({"/health/live"})
"""Has a thread of its own: a process whose threads are all busy is alive."""


class Server:
    """Serves a WSGI application by ASGI."""

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
        self._threads = Threads(threads, "request")
        self._liveness = Threads(1, "liveness")
        self._bodies = Bodies(trusted_proxies=trusted_proxies, seconds=body_seconds)
        self._answers = Answers(self._threads)
        self._uploads = uploads
        self._served = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Process one request."""
        if not self._served:
            self._served = True
            sockets.end_unread_answers(int(scope["server"][1]))
        began = time.perf_counter()
        environ: Environ = {}
        try:
            environ = environ_of(scope)
            answer = await self._answer(environ, receive)
        except GatewayError as error:
            answer = refusals.answer(error, scope["method"], environ.get("HTTP_X_REQUEST_ID", ""), began)
        except Exception:  # noqa: BLE001  # Flask handles its own errors: this one is of the adapter or the edge
            logger.exception("Internal error")
            answer = refusals.answer(GatewayError(), scope["method"], environ.get("HTTP_X_REQUEST_ID", ""), began)
        await self._answers.send(answer, receive, send, partial(self._bodies.client_of, environ))

    async def _answer(self, environ: Environ, receive: Receive) -> WsgiAnswer:
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
            return await threads.run(partial(call, self._application, environ))
        finally:
            body.close()
