"""Flask without what it does for every request and this API has no use for.

That is sessions, coroutines, names of hosts, signals, all hooks but `after_request`, and another look at each answer.
Whoever calls an API sees nothing of them but the time they take (docs/performance.md).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

import flask
from flask import Flask, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import ClientDisconnected
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import MapAdapter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BODY_MAX_BYTES = 64 * 1024
_LENGTH = re.compile("[0-9]{1,9}")
_NO_SESSION = NullSession()


class Request(flask.Request):
    """A request of this API."""

    # Of a body without a length werkzeug reads so much and drops the rest: one byte more tells that there is a rest.
    max_content_length: int | None = BODY_MAX_BYTES + 1

    def close(self) -> None:
        """Nothing: no request of this API holds files."""

    @cached_property
    def body(self) -> bytes:
        """The body. What is announced as small is read at once; werkzeug makes room for 64 KiB first.

        Raises:
            RequestEntityTooLarge: it has more than `max_content_length`.
            ClientDisconnected: it ended early.
        """
        announced = self.environ.get("CONTENT_LENGTH", "")
        if not _LENGTH.fullmatch(announced) or "HTTP_TRANSFER_ENCODING" in self.environ:
            return self.get_data()
        length = int(announced)
        if length > BODY_MAX_BYTES:
            return self.get_data()
        sent: bytes = self.environ["wsgi.input"].read(length)
        while len(sent) < length:
            more = self.environ["wsgi.input"].read(length - len(sent))
            if not more:
                raise ClientDisconnected
            sent += more
        return sent


def current_request() -> Request:
    """The request being answered, itself: each use of Flask's `request` looks it up anew."""
    found: Request = flask.request._get_current_object()  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is sent as it is, in the pieces that its body has."""

    body: Iterable[bytes]
    status_code: int
    headers: list[tuple[str, str]]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Send the head and give the body, none to HEAD."""
        start_response(f"{self.status_code} {HTTP_STATUS_CODES[self.status_code]}", self.headers)
        return () if environ["REQUEST_METHOD"] == "HEAD" else self.body


class _NoSessions(SessionInterface):
    """There are no cookies: each request carries its access token."""

    def open_session(self, app: Flask, request: flask.Request) -> NullSession:  # noqa: ARG002  # Flask's signature
        """The one that stores nothing."""
        return _NO_SESSION


class Application(Flask):
    """The Flask application of this API."""

    request_class = Request
    session_interface = _NoSessions()

    def full_dispatch_request(self) -> Response:
        """What the route of the current request answers, or the error handler if it raises.

        Both give an answer, so nothing has to be made into one. Flask calls the answer with the WSGI environment, as
        it does its own responses.
        """
        asked = current_request()
        try:
            if asked.routing_exception is not None or asked.url_rule is None:
                self.raise_routing_exception(asked)
            answer = self.view_functions[asked.url_rule.endpoint](**(asked.view_args or {}))
        except Exception as exc:  # noqa: BLE001  # what is not foreseen is answered too
            answer = self.handle_user_exception(exc)
        return self.process_response(cast(Response, answer))

    def process_response(self, response: Response) -> Response:
        """`response` after the functions for after each request."""
        for function in reversed(self.after_request_funcs.get(None, ())):
            response = cast(Response, function(response))
        return response

    def do_teardown_request(self, *_: Any) -> None:
        """Nothing."""

    def do_teardown_appcontext(self, *_: Any) -> None:
        """Nothing."""

    def _never_called(self, function: Callable[..., Any]) -> NoReturn:
        """Refuse a hook for which nothing above looks."""
        raise NotImplementedError(f"{function} would never be called: see gateway.api.http.application")

    before_request = teardown_request = teardown_appcontext = url_value_preprocessor = _never_called  # type: ignore[assignment]

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
