"""Convert the request line and the headers of a request from ASGI to WSGI (PEP 3333); reject ambiguous ones.

WSGI maps header names to environment variables, so `X_Forwarded_For` and `X-Forwarded-For` become the same variable,
while a proxy treats them as two headers. Another spelling of a path (`//metrics`, `/%6detrics`) bypasses the rules of a
proxy and reaches the same route. So headers with underscores are dropped, and each path has exactly one spelling.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from gateway.errors import MalformedRequest, NotFound

Environ = dict[str, Any]

_SEGMENT = r"/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+"
_PATH = re.compile(rf"(?:{_SEGMENT})+|/".encode())
"""No route contains a character that must be percent-encoded, an empty segment, or a dot segment."""
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
"""A host name or an address with or without a port: the subset of RFC 3986, section 3.2.2, that DNS allows."""
_HTTP_1_0 = "1"

_ONCE = frozenset(
    {
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "HTTP_AUTHORIZATION",
        "HTTP_CONTENT_ENCODING",
        "HTTP_HOST",
        "HTTP_IDEMPOTENCY_KEY",
        "HTTP_TRANSFER_ENCODING",
        "HTTP_X_REQUEST_ID",
    }
)
"""Headers with a single value, which are rejected if repeated. All others are lists, such as `X-Forwarded-For`."""

_BASE: Mapping[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "granian",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.version": (1, 0),
}


def _variable(name: bytes) -> str:
    variable = name.decode("latin-1").upper().replace("-", "_")
    return variable if variable in {"CONTENT_LENGTH", "CONTENT_TYPE"} else f"HTTP_{variable}"


_COMMON = {
    name: _variable(name)
    for name in (
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"user-agent",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-request-id",
    )
}


def environ_of(scope: Mapping[str, Any]) -> Environ:
    """Return the WSGI environment of a request, without `wsgi.input`.

    Raises:
        MalformedRequest: it has no valid Host header, a repeated header of a single value, undecodable bytes, a method
            in lower case, or a transfer coding other than chunked.
        NotFound: its path is not in the canonical spelling.
    """
    method: str = scope["method"]
    if method != method.upper():
        raise MalformedRequest("Methods are case-sensitive (RFC 9110, section 9.1): send it in upper case.")
    environ = {
        **_BASE,
        "REQUEST_METHOD": method,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": scope["server"][1],
        "REMOTE_ADDR": scope["client"][0],
        "wsgi.url_scheme": scope["scheme"],
    }
    _add_headers(environ, scope["headers"])
    _check_host(environ, scope["http_version"])
    if environ.get("HTTP_TRANSFER_ENCODING", "chunked").lower() != "chunked":
        raise MalformedRequest("The only transfer coding that is supported is chunked.")
    environ["QUERY_STRING"] = _query(scope["query_string"])
    environ["PATH_INFO"] = _path(scope["raw_path"])
    return environ


def _add_headers(environ: Environ, headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if b"_" in name:
            continue
        variable = _COMMON.get(name) or _variable(name)
        if not value.isascii():
            _refuse_undecodable(value)
        text = value.decode("latin-1")  # see PEP 3333
        if variable not in environ:
            environ[variable] = text
        elif variable in _ONCE:
            raise MalformedRequest(f"The header {name.decode('latin-1')} was sent more than once.")
        else:
            separator = "; " if variable == "HTTP_COOKIE" else ", "
            environ[variable] += separator + text


def _check_host(environ: Environ, http_version: str) -> None:
    host = environ.get("HTTP_HOST", "")  # the server adds an empty one if the request has none
    if not _HOST.fullmatch(host) and (host or http_version != _HTTP_1_0):
        raise MalformedRequest("The request needs one valid Host header (RFC 9112, section 3.2).")


def _query(query: bytes) -> str:
    if not query.isascii() or b"%" in query:
        _refuse_undecodable(unquote_to_bytes(query))
    return query.decode("latin-1")


def _path(path: bytes) -> str:
    if _PATH.fullmatch(path):
        return path.decode("ascii")
    _refuse_undecodable(unquote_to_bytes(path))
    raise NotFound("The path must have no empty segments, no dot segments and no percent-encoding.")


def _refuse_undecodable(value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise MalformedRequest("The request contains bytes that are not UTF-8.") from None
