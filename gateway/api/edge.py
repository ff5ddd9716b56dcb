"""What surrounds every request: its id, its log line, its metrics, and the headers that every answer has."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from loguru import logger
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway import db
from gateway.card_numbers import holds_card_number
from gateway.config import settings
from gateway.domain.ids import new_id
from gateway.telemetry import HTTP_REQUESTS, HTTP_SECONDS, log_context

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DATABASE_PATIENCE_SECONDS = 2.0
"""The longest that a request waits for PostgreSQL; its own lock timeout is shorter."""
_ENVIRON_KEY = "gateway.request_id"
_STREAMED = "gateway.streamed"
_UNMATCHED = "unmatched"
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds by machines: their log lines are for debugging only."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def request_id() -> str:
    """The id of the request being answered: the caller's own if it was usable."""
    found: str = request.environ[_ENVIRON_KEY]
    return found


def stream_answer() -> None:
    """Have the answer sent piece by piece; what makes the pieces has neither log context nor patience from here."""
    request.environ[_STREAMED] = True


def _chosen_request_id(offered: str) -> str:
    if _REQUEST_ID.fullmatch(offered) and not holds_card_number(offered, issued_only=True):
        return offered
    return str(new_id())


def _note_answer(response: Response) -> Response:
    """Count, time and log the request under its route's template: a raw path could hold anything."""
    route = request.url_rule.rule if request.url_rule is not None else _UNMATCHED
    method = request.method if request.method in _METHODS else "OTHER"
    seconds = time.perf_counter() - g.started_at
    HTTP_REQUESTS.labels(method, route, str(response.status_code)).inc()
    HTTP_SECONDS.labels(method, route).observe(seconds)
    level = "DEBUG" if route in _QUIET_ROUTES else "INFO"
    logger.log(level, "{} {} {} in {:.1f} ms", method, route, response.status_code, seconds * 1000)
    response.headers["X-Request-Id"] = request_id()
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _start_clock() -> None:
    g.started_at = time.perf_counter()


class _Edge:
    """WSGI middleware that gives each request its id and its log context, and sends small answers in one piece."""

    def __init__(self, inner: "WSGIApplication") -> None:
        self._inner = inner

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ[_ENVIRON_KEY] = _chosen_request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        with log_context(request_id=environ[_ENVIRON_KEY]), db.patience(DATABASE_PATIENCE_SECONDS):
            chunks = self._inner(environ, start_response)
            if environ.get(_STREAMED):
                return chunks
            with _closing(chunks):
                return [b"".join(chunks)]


@contextmanager
def _closing(chunks: Iterable[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def install(app: Flask) -> None:
    """Put the edge around `app`."""
    inner = ProxyFix(app.wsgi_app, x_for=settings().trusted_proxies, x_proto=0, x_host=0)
    app.wsgi_app = _Edge(inner)  # type: ignore[method-assign]  # Flask's documented way to add middleware
    app.before_request(_start_clock)
    app.after_request(_note_answer)
