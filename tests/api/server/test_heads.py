"""A request has one meaning: header names, repeated headers, Host, spellings of a path, undecodable bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.api.server.heads import environ_of
from gateway.errors import MalformedRequest, NotFound
from tests.api.conftest import Caller
from tests.api.process import ApiProcess, api_process
from tests.api.server.raw import ask, get, payment
from tests.helpers.factories import count

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


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Run an API."""
    with api_process(Path(tmp_path_factory.mktemp("heads")) / "api.log") as started:
        yield started


def test_a_header_with_an_underscore_does_not_pass_for_the_one_with_a_hyphen() -> None:
    environ = environ_of(scope(headers=[(b"x_forwarded_for", b"203.0.113.9"), (b"x-forwarded-for", b"198.51.100.1")]))
    assert environ["HTTP_X_FORWARDED_FOR"] == "198.51.100.1"
    assert "HTTP_IDEMPOTENCY_KEY" not in environ_of(scope(headers=[(b"idempotency_key", b"k")]))


def test_what_several_proxies_forward_for_is_one_list_in_their_order() -> None:
    environ = environ_of(scope(headers=[(b"x-forwarded-for", b"192.0.2.7, 192.0.2.8"), (b"x-forwarded-for", b"::1")]))
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.7, 192.0.2.8, ::1"


@pytest.mark.parametrize(
    "name",
    [b"host", b"authorization", b"idempotency-key", b"content-type", b"content-length", b"x-request-id"],
)
def test_a_second_header_of_one_meaning_is_refused(name: bytes) -> None:
    twice = [(name, b"1"), (name, b"1")]
    with pytest.raises(MalformedRequest):
        environ_of(scope(headers=twice))


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"a,b", b"user@host", b"host:port", b"[::1"])
def test_a_request_without_a_valid_host_is_refused(host: bytes) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope() | {"headers": [(b"host", host)]})


@pytest.mark.parametrize("method", ["post", "Head", "gEt"])
def test_a_method_in_lower_case_is_refused(method: str) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope() | {"method": method})


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity", b"chunked, chunked", b"xchunked"])
def test_another_transfer_coding_than_chunked_is_refused(coding: bytes) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(scope(headers=[(b"transfer-encoding", coding)]))


@pytest.mark.parametrize("host", [b"gateway.example", b"gateway.example:8443", b"[2001:db8::1]:80", b"127.0.0.1"])
def test_a_valid_host_is_taken(host: bytes) -> None:
    assert environ_of(scope() | {"headers": [(b"host", host)]})["HTTP_HOST"] == host.decode()


def test_a_client_of_http_1_0_need_not_name_a_host() -> None:
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
def test_another_spelling_of_a_path_is_not_found(path: bytes) -> None:
    with pytest.raises(NotFound):
        environ_of(scope(path))


@pytest.mark.parametrize("path", [b"/", b"/metrics", b"/docs/swagger-ui.css", b"/.well-known/jwks.json", b"/a/..b/..."])
def test_the_one_spelling_of_a_path_is_passed_on(path: bytes) -> None:
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
def test_bytes_that_are_not_text_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        environ_of(request_)


def test_text_of_any_script_is_taken_in_query_and_header() -> None:
    environ = environ_of(scope(query_string="reference=%C3%A4ä".encode(), headers=[(b"user-agent", "ä".encode())]))
    assert environ["QUERY_STRING"].encode("latin-1") == "reference=%C3%A4ä".encode()
    assert environ["HTTP_USER_AGENT"].encode("latin-1") == "ä".encode()


@pytest.mark.parametrize("path", [b"//metrics", b"/%6detrics", b"/v1/../metrics", b"/%2e/metrics"])
def test_the_running_api_shows_its_metrics_under_one_path_only(api: ApiProcess, path: bytes) -> None:
    assert get(api.port, b"/metrics").status == 200
    answer = get(api.port, path)
    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Host: x\r\nHost: x\r\n",
        b"Host: x\r\nHost: y\r\n",
        b"Host: x\r\nAuthorization: a\r\nAuthorization: b\r\n",
        b"Host: x\r\nX-Note: \xff\r\n",
    ],
    ids=["no host", "host twice", "two hosts", "two authorizations", "undecodable"],
)
def test_the_running_api_refuses_an_ambiguous_head(api: ApiProcess, headers: bytes) -> None:
    answer = get(api.port, b"/health/live", headers)
    assert (answer.status, answer.code) == (400, "malformed_request")


def test_a_payment_with_two_idempotency_keys_is_not_made(api: ApiProcess, merchant: Caller) -> None:
    first_key = b"Idempotency-Key: a\r\n"

    answer = ask(api.port, payment(merchant.token, first_key + b"Idempotency-Key: b\r\n"))
    assert (answer.status, answer.code) == (400, "malformed_request")
    assert count("transactions") == 0
    assert ask(api.port, payment(merchant.token, first_key + b"Idempotency_Key: b\r\n")).status == 201


def test_what_the_application_never_sees_is_counted_and_logged(api: ApiProcess) -> None:
    get(api.port, b"//nothing", b"Host: x\r\nX-Request-Id: never-seen\r\n")
    assert (
        'http_requests_total{method="GET",route="unmatched",status="404"}' in get(api.port, b"/metrics").body.decode()
    )
    assert "GET unmatched 404" in api.log.read_text()
