"""What surrounds every request: its id, its log line, its metrics, and the headers that every answer has."""

import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from loguru import logger
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway import db
from gateway.api.http.application import Request, current_request
from gateway.config import settings
from gateway.ids import new_id_text
from gateway.security.card_numbers import contains_card_number
from gateway.telemetry import HTTP_REQUESTS, HTTP_SECONDS, labelled, log_context, log_frequent

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DATABASE_PATIENCE_SECONDS = 2.0
"""The longest that a request waits for PostgreSQL; its own lock timeout is shorter."""
_ENVIRON_KEY = "gateway.request_id"
_BEGAN = "gateway.began"
_STREAMED = "gateway.streamed"
UNMATCHED = "unmatched"
"""The route label of a request that matches no route."""
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds by machines: their log lines are for debugging only."""

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
"""What an answer does not say by itself."""


def request_id(asked: Request) -> str:
    """The id that `asked` is known by everywhere: the caller's own if it was usable."""
    found: str = asked.environ[_ENVIRON_KEY]
    return found


def stream_answer() -> None:
    """Have the answer sent piece by piece; what makes the pieces has neither log context nor patience from here."""
    request.environ[_STREAMED] = True


def chosen_request_id(offered: str) -> str:
    """Return the request id that a caller sent if it is valid, or else a new one."""
    if _REQUEST_ID.fullmatch(offered) and not contains_card_number(offered, issued_only=True):
        return offered
    return new_id_text()


def _note_answer(response: Response) -> Response:
    """Count, time and log the request under its route's template: a raw path could hold anything."""
    asked = current_request()
    route = asked.url_rule.rule if asked.url_rule is not None else UNMATCHED
    note(asked.method, route, response.status_code, time.perf_counter() - asked.environ[_BEGAN])
    return response


def note(asked_method: str, route: str, status: int, seconds: float) -> None:
    """Count, time and log a request that was answered with `status`."""
    method = asked_method if asked_method in _METHODS else "OTHER"
    labelled(HTTP_REQUESTS, method, route, str(status)).inc()
    labelled(HTTP_SECONDS, method, route).observe(seconds)
    line = f"{method} {route} {status} in {seconds * 1000:.1f} ms"
    if route in _QUIET_ROUTES:
        logger.debug(line)
    else:
        log_frequent(__name__, line)


class _Edge:
    """WSGI middleware that gives each request its id, its log context and the headers that every answer has.

    Headers are added here rather than in Flask, where each costs as much as all of them do here. Small answers are sent
    in one piece.
    """

    def __init__(self, inner: "WSGIApplication") -> None:
        self._inner = inner

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        id = environ[_ENVIRON_KEY] = chosen_request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        environ[_BEGAN] = time.perf_counter()
        with log_context(request_id=id), db.patience(DATABASE_PATIENCE_SECONDS):
            chunks = self._inner(environ, partial(_start, start_response, id))
            return chunks if environ.get(_STREAMED) else [_whole(chunks)]


def _start(
    start_response: "StartResponse", id: str, status: str, headers: list[tuple[str, str]], *exc_info: Any
) -> Callable[[bytes], object]:
    given = {name for name, _ in headers}
    added = [header for header in added_headers(id) if header[0] not in given]
    return start_response(status, [*headers, *added], *exc_info)


def added_headers(id: str) -> tuple[tuple[str, str], ...]:
    """Return the headers that every response to the request `id` has unless it sets them itself."""
    return (("X-Request-Id", id), *_HEADERS)


def _whole(chunks: Iterable[bytes]) -> bytes:
    try:
        return b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def install(app: Flask) -> None:
    """Put the edge around `app`."""
    proxies = settings().trusted_proxies
    inner = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0) if proxies else app.wsgi_app
    app.wsgi_app = _Edge(inner)  # type: ignore[method-assign]  # Flask's documented way to add middleware
    app.after_request(_note_answer)
