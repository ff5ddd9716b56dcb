"""Flask without what it does for every request and this API has no use for: sessions, coroutines, names of hosts.

These took a fifth of a request's time in Flask, and whoever calls an API sees nothing of them.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import flask
from flask import Flask
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import ClientDisconnected
from werkzeug.routing import MapAdapter

BODY_MAX_BYTES = 64 * 1024
_NO_SESSION = NullSession()


class Request(flask.Request):
    """A request of this API."""

    # Of a body without a length werkzeug reads so much and drops the rest: one byte more tells that there is a rest.
    max_content_length: int | None = BODY_MAX_BYTES + 1

    @cached_property
    def body(self) -> bytes:
        """The body. What is announced as small is read at once; werkzeug makes room for 64 KiB first.

        Raises:
            RequestEntityTooLarge: it has more than `max_content_length`.
            ClientDisconnected: it ended early.
        """
        length = self.content_length
        if length is None or length > BODY_MAX_BYTES:
            return self.get_data()
        sent: bytes = self.environ["wsgi.input"].read(length)
        while len(sent) < length:
            more = self.environ["wsgi.input"].read(length - len(sent))
            if not more:
                raise ClientDisconnected
            sent += more
        return sent


class _NoSessions(SessionInterface):
    """There are no cookies: each request carries its access token."""

    def open_session(self, app: Flask, request: flask.Request) -> NullSession:  # noqa: ARG002  # Flask's signature
        """The one that stores nothing."""
        return _NO_SESSION


class Application(Flask):
    """The Flask application of this API."""

    request_class = Request
    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """`func`, for none here is a coroutine."""
        return func

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """What finds the route of `request`, by its path alone: all hosts have the same routes."""
        if request is None:  # nothing here makes a URL outside of a request
            return None
        return MapAdapter(
            self.url_map,
            server_name="",
            script_name="/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
        )
