"""WSGI middleware around the application: request ids, log context, common response headers, logs and metrics."""

import re
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Request, Response, request
from loguru import logger
from prometheus_client import Counter, Histogram
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway import db
from gateway.config import settings
from gateway.ids import new_id_text
from gateway.security.card_numbers import contains_card_number
from gateway.telemetry import HTTP_REQUESTS, HTTP_SECONDS, log_context, log_frequent

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DATABASE_ANSWER_SECONDS = 2.0
"""Maximum time that a request waits for one answer of PostgreSQL, whose own lock timeout is shorter."""
_REQUEST_ID_KEY = "gateway.request_id"
_STARTED_KEY = "gateway.started"
_STREAMED_KEY = "gateway.streamed"
UNMATCHED = "unmatched"
"""The route label of a request that matches no route."""
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Routes that machines call every few seconds; their requests are logged at level DEBUG."""

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of every response that does not set them itself."""


def request_id(of: Request) -> str:
    """Return the id of a request: the client's own if it was valid."""
    id: str = of.environ[_REQUEST_ID_KEY]
    return id


def chosen_request_id(offered: str) -> str:
    """Return the request id that a client sent if it is valid, or else a new one."""
    if _REQUEST_ID.fullmatch(offered) and not contains_card_number(offered, issued_only=True):
        return offered
    return new_id_text()


def _finish_request(response: Response) -> Response:
    """Count, time and log the request under the template of its route, because a path could hold anything."""
    route = request.url_rule.rule if request.url_rule is not None else UNMATCHED
    record(request.method, route, response.status_code, time.perf_counter() - request.environ[_STARTED_KEY])
    if response.is_streamed:
        request.environ[_STREAMED_KEY] = True
    return response


def record(method: str, route: str, status: int, seconds: float) -> None:
    """Count, time and log a request whose response has this status."""
    method = method if method in _METHODS else "OTHER"
    requests, durations = _metrics_of(method, route, status)
    requests.inc()
    durations.observe(seconds)
    line = f"{method} {route} {status} in {seconds * 1000:.1f} ms"
    if route in _QUIET_ROUTES:
        logger.debug(line)
    else:
        log_frequent(__name__, line)


@cache
def _metrics_of(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Return the metrics with these labels, which have few values."""
    return HTTP_REQUESTS.labels(method, route, str(status)), HTTP_SECONDS.labels(method, route)


class Middleware:
    """Give each request its id and its log context, and each response the common headers.

    The headers are added here because responses of other middleware and of the server need them too. A response that
    is not streamed is sent in one piece. A streamed one is produced after this block: without log context, and with
    the database's own limits.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Process one request (PEP 3333)."""
        id = environ[_REQUEST_ID_KEY] = chosen_request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        environ[_STARTED_KEY] = time.perf_counter()
        with log_context(request_id=id), db.answer_timeout(DATABASE_ANSWER_SECONDS):
            chunks = self._application(environ, partial(_start_response, start_response, id))
            return chunks if environ.get(_STREAMED_KEY) else [_joined(chunks)]


def _start_response(
    start_response: StartResponse, id: str, status: str, headers: list[tuple[str, str]], *exc_info: Any
) -> Callable[[bytes], object]:
    names = {name for name, _ in headers}
    added = [header for header in common_headers(id) if header[0] not in names]
    return start_response(status, [*headers, *added], *exc_info)


def common_headers(id: str) -> tuple[tuple[str, str], ...]:
    """Return the headers that every response to the request `id` has unless it sets them itself."""
    return (("X-Request-Id", id), *_HEADERS)


def _joined(chunks: Iterable[bytes]) -> bytes:
    try:
        return b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


def install(app: Flask) -> None:
    """Wrap `app` in the middleware."""
    proxies = settings().trusted_proxies
    inner = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0) if proxies else app.wsgi_app
    app.wsgi_app = Middleware(inner)  # type: ignore[method-assign]  # as Flask documents it
    app.after_request(_finish_request)
