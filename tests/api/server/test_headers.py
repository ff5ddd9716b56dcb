"""Convert requests from ASGI to WSGI, and reject ambiguous ones."""

from typing import Any

import pytest

from gateway.api.server.headers import environ_of
from gateway.errors import MalformedRequest, NotFound

pytestmark = pytest.mark.unit

Headers = list[tuple[bytes, bytes]]
HOST = (b"host", b"gateway.example")


def scope(path: bytes = b"/v1/transactions", headers: Headers | None = None, **changes: Any) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    made = {
        "method": "GET",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", "8000"),
        "client": ("192.0.2.1", "40000"),
        "raw_path": path,
        "query_string": b"",
        "headers": [HOST, *(headers or [])],
    }
    return made | changes


def test_a_header_with_an_underscore_is_dropped() -> None:
    environ = environ_of(scope(headers=[(b"x_forwarded_for", b"203.0.113.9"), (b"x-forwarded-for", b"198.51.100.1")]))
    assert environ["HTTP_X_FORWARDED_FOR"] == "198.51.100.1"
    assert "HTTP_IDEMPOTENCY_KEY" not in environ_of(scope(headers=[(b"idempotency_key", b"k")]))


def test_several_x_forwarded_for_headers_are_joined_in_order() -> None:
    environ = environ_of(scope(headers=[(b"x-forwarded-for", b"192.0.2.7, 192.0.2.8"), (b"x-forwarded-for", b"::1")]))
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.7, 192.0.2.8, ::1"


@pytest.mark.parametrize(
    "name",
    [b"host", b"authorization", b"idempotency-key", b"content-type", b"content-length", b"x-request-id"],
)
def test_a_repeated_header_of_a_single_value_is_rejected(name: bytes) -> None:
    twice = [(name, b"1"), (name, b"1")]
    with pytest.raises(MalformedRequest):
        environ_of(scope(headers=twice))


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"a,b", b"user@host", b"host:port", b"[::1"])
def test_an_invalid_host_is_rejected(host: bytes) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope() | {"headers": [(b"host", host)]})


@pytest.mark.parametrize("method", ["post", "Head", "gEt"])
def test_a_method_in_lower_case_is_rejected(method: str) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope() | {"method": method})


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity", b"chunked, chunked", b"xchunked"])
def test_a_transfer_coding_other_than_chunked_is_rejected(coding: bytes) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope(headers=[(b"transfer-encoding", coding)]))


@pytest.mark.parametrize("host", [b"gateway.example", b"gateway.example:8443", b"[2001:db8::1]:80", b"127.0.0.1"])
def test_a_valid_host_is_accepted(host: bytes) -> None:
    assert environ_of(scope() | {"headers": [(b"host", host)]})["HTTP_HOST"] == host.decode()


def test_http_1_0_does_not_require_a_host() -> None:
    assert environ_of(scope(http_version="1") | {"headers": [(b"host", b"")]})["HTTP_HOST"] == ""


@pytest.mark.parametrize(
    "path",
    [
        b"//metrics",
        b"/%6detrics",
        b"/./metrics",
        b"/v1/../metrics",
        b"/v1/..",
        b"/v1//transactions",
        b"/v1/transactions/",
        b"/v1%2Ftransactions",
        b"/v1/%74ransactions",
        b"/metrics%20",
        b"/metrics;a=1/.",
        b"*",
        b"metrics",
    ],
)
def test_a_path_in_a_non_canonical_spelling_is_not_found(path: bytes) -> None:
    with pytest.raises(NotFound):
        environ_of(scope(path))


@pytest.mark.parametrize("path", [b"/", b"/metrics", b"/docs/swagger-ui.css", b"/.well-known/jwks.json", b"/a/..b/..."])
def test_a_path_in_its_canonical_spelling_is_passed_on(path: bytes) -> None:
    assert environ_of(scope(path))["PATH_INFO"] == path.decode()


@pytest.mark.parametrize(
    "request_",
    [
        scope(b"/%ff"),
        scope(b"/v1/%c3%28"),
        scope(query_string=b"reference=%ff"),
        scope(query_string=b"reference=\xff"),
        scope(headers=[(b"user-agent", b"\xff")]),
    ],
    ids=["path", "sequence in a path", "encoded query", "query", "header"],
)
def test_bytes_that_are_not_utf_8_are_rejected(request_: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(request_)


def test_non_ascii_text_is_accepted_in_queries_and_headers() -> None:
    environ = environ_of(scope(query_string="reference=%C3%A4ä".encode(), headers=[(b"user-agent", "ä".encode())]))
    assert environ["QUERY_STRING"].encode("latin-1") == "reference=%C3%A4ä".encode()
    assert environ["HTTP_USER_AGENT"].encode("latin-1") == "ä".encode()
