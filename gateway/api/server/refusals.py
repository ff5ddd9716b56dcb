"""Responses to requests that do not reach the application: counted, logged and formatted like its own."""

import json
import time

from gateway.api.http import middleware, problems
from gateway.api.server.answers import WsgiAnswer
from gateway.errors import GatewayError
from gateway.telemetry import log_context


def answer(error: GatewayError, method: str, offered_request_id: str, began: float) -> WsgiAnswer:
    """Return the problem document of `error`; `began` is the start of the request (time.perf_counter)."""
    id = middleware.chosen_request_id(offered_request_id)
    with log_context(request_id=id):
        middleware.record(method, middleware.UNMATCHED, error.status, time.perf_counter() - began)
    body = json.dumps(problems.document(error, id)).encode()
    headers = [
        ("Content-Type", problems.MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),  # the rest of the request is not read
        *error.headers.items(),
        *middleware.common_headers(id),
    ]
    refusal = WsgiAnswer()
    refusal.start(f"{error.status} ", headers)
    refusal.body = b"" if method == "HEAD" else body
    return refusal
