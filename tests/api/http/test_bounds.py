"""The limits of the server for the bytes of a request, before the application sees it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.api.http.request_content import BODY_MAX_BYTES
from tests.api.conftest import Caller
from tests.api.process import ApiProcess
from tests.helpers.factories import count
from tests.helpers.waiting import eventually

SECONDS = 10


@contextmanager
def request_begun(api: ApiProcess, caller: Caller, line: bytes, headers: bytes = b"") -> Iterator[socket.socket]:
    """Open a connection, and send a request without its body."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=SECONDS) as connection:
        start = line + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + str(caller.token).encode() + b"\r\n"
        connection.sendall(start + headers + b"\r\n")
        yield connection


def status(connection: socket.socket) -> int:
    """Read the response, and return its status."""
    return int(connection.makefile("rb").readline().split()[1])


def status_of(api: ApiProcess, caller: Caller, line: bytes, headers: bytes = b"", body: bytes = b"") -> int:
    """Send a request of these bytes, and return the status of the response."""
    with request_begun(api, caller, line, headers) as connection:
        connection.sendall(body)
        return status(connection)


def wait_until_received(connection: socket.socket) -> None:
    """Wait until the kernel of the server has acknowledged everything that was sent (tcpi_unacked, tcp(7))."""
    unacknowledged = slice(24, 28)

    def received() -> bool:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return not any(info[unacknowledged])

    eventually(received, what="the acknowledgement")


@pytest.mark.parametrize(("size", "status"), [(BODY_MAX_BYTES, 201), (BODY_MAX_BYTES + 1, 413), (10**6, 413)])
def test_a_chunked_body_has_the_same_maximum_size(
    running_api: ApiProcess, merchant: Caller, size: int, status: int
) -> None:
    body = b'{"amount": 1000, "currency": "USD"}'.ljust(size)
    headers = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"

    assert (
        status_of(running_api, merchant, b"POST /v1/transactions", headers, b"%x\r\n%s\r\n0\r\n\r\n" % (size, body))
        == status
    )
    assert count("transactions") == (status == 201)


def test_a_body_of_many_small_parts_is_rejected(running_api: ApiProcess, merchant: Caller) -> None:
    body = b'{"amount": 1000, "currency": "USD"}'.ljust(1000)
    headers = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)

    assert status_of(running_api, merchant, b"POST /v1/transactions", headers, parts + b"0\r\n\r\n") == 400
    assert count("transactions") == 0


@pytest.mark.parametrize("pieces", [2, 7])
def test_a_body_that_arrives_in_pieces_is_assembled(running_api: ApiProcess, merchant: Caller, pieces: int) -> None:
    body = b'{"amount": 1000, "currency": "USD"}'.ljust(40_000)
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    size = -(-len(body) // pieces)
    with request_begun(running_api, merchant, b"POST /v1/transactions", head) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(body), size):
            wait_until_received(connection)  # the server then reads this piece separately
            connection.sendall(body[start : start + size])
        assert status(connection) == 201
    assert count("transactions") == 1


def test_a_truncated_body_creates_no_payment(running_api: ApiProcess, merchant: Caller) -> None:
    body = b'{"amount": 1000, "currency": "USD"}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % (len(body) + 1)
    with request_begun(running_api, merchant, b"POST /v1/transactions", head) as connection:
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").readline().split()[1:2] in ([], [b"400"])
    assert count("transactions") == 0


def test_a_body_whose_content_length_is_too_large_is_rejected_before_it_is_sent(
    running_api: ApiProcess, merchant: Caller
) -> None:
    headers = b"Content-Type: application/json\r\nContent-Length: 10000000000\r\n"

    assert status_of(running_api, merchant, b"POST /v1/transactions", headers) == 413


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        (b"GET /v1/transactions?reference=" + b"a" * 60_000, b"", 422),
        (b"GET /v1/transactions?reference=" + b"a" * 70_000, b"", 414),
        (b"GET /v1/transactions?" + b"&".join(b"p%d=1" % number for number in range(5_000)), b"", 422),
        (b"GET /v1/transactions", b"".join(b"X-%d: a\r\n" % number for number in range(110)), 431),
    ],
    ids=["long URL", "longer URL", "many parameters", "many headers"],
)
def test_the_sizes_of_urls_and_headers_are_limited(
    running_api: ApiProcess, merchant: Caller, line: bytes, headers: bytes, status: int
) -> None:
    assert status_of(running_api, merchant, line, headers) == status


def test_requests_with_unfinished_headers_do_not_block_others(running_api: ApiProcess, merchant: Caller) -> None:
    slow = [socket.create_connection(("127.0.0.1", running_api.port), timeout=SECONDS) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHos")
        assert status_of(running_api, merchant, b"GET /v1/transactions") == 200
    finally:
        for connection in slow:
            connection.close()
