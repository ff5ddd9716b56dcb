"""Respond to requests that do not reach the application; count, log and format the responses like others."""

import json
import time

from gateway.api.http import middleware, problems
from gateway.api.server.responses import WsgiResponse
from gateway.errors import GatewayError
from gateway.telemetry import log_context


def rejection(error: GatewayError, method: str, offered_request_id: str, began: float) -> WsgiResponse:
    """Return the problem document of `error`; the request began at `began` (time.perf_counter)."""
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
    response = WsgiResponse()
    response.start(f"{error.status} ", headers)
    response.body = b"" if method == "HEAD" else body
    return response
