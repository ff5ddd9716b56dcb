"""Serve other clients while some are slow, silent or unfinished, and release their resources."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from gateway.api.server import limits
from tests.api.conftest import Caller
from tests.api.process import ApiProcess, api_process
from tests.api.server.raw import SECONDS, get, payment, read_response
from tests.attacks.connections import SILENT, SLOW_HEAD, UNFINISHED_BODY, crowd, http2_streams
from tests.attacks.slow_clients import seconds_of_live, seconds_of_payment
from tests.helpers.factories import count
from tests.helpers.waiting import eventually

BODY_SECONDS = 2
OTHER_CLIENTS_SECONDS = 5.0
"""Maximum time for the request of another client; tests/attacks/slow_clients.py measures against 1 and 2 s."""
ASSET = b"/docs/swagger-ui-bundle.js"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Run an API with few threads and a short timeout for bodies."""
    log = Path(tmp_path_factory.mktemp("slow")) / "api.log"
    with api_process(log, API_THREADS="4", REQUEST_BODY_SECONDS=str(BODY_SECONDS)) as started:
        yield started


def expect_service(api: ApiProcess, merchant: Caller) -> None:
    """Check that other clients are served in time."""
    assert seconds_of_live(api.url) < OTHER_CLIENTS_SECONDS
    assert seconds_of_payment(api.url, str(merchant.token)) < OTHER_CLIENTS_SECONDS


def test_many_slow_clients_do_not_block_others(api: ApiProcess, merchant: Caller) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        slow.open(200, SILENT)
        slow.open(200, SLOW_HEAD)
        slow.open(100, UNFINISHED_BODY)
        expect_service(api, merchant)
    expect_service(api, merchant)


def test_http_2_streams_that_end_before_their_bodies_do_not_block_others(api: ApiProcess, merchant: Caller) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        for _ in range(2):
            slow.open(1, http2_streams(20))[0].close()
        expect_service(api, merchant)


def test_clients_that_disconnect_before_their_bodies_end_release_their_resources(
    api: ApiProcess, merchant: Caller
) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        slow.open(50, UNFINISHED_BODY)
    expect_service(api, merchant)


def test_a_body_that_does_not_arrive_in_time_is_rejected(api: ApiProcess) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        connection = slow.open(1, UNFINISHED_BODY)[0]
        connection.settimeout(SECONDS)
        response = read_response(connection)
    assert (response.status, response.code) == (408, "request_timeout")
    assert response.headers["connection"] == "close"


def test_a_slow_body_has_no_more_time_than_any_other(api: ApiProcess) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        connection = slow.open(1, UNFINISHED_BODY)[0]
        connection.settimeout(0.1)
        began = time.monotonic()
        while True:
            connection.sendall(b" ")
            try:
                first = connection.recv(12)
            except TimeoutError:
                assert time.monotonic() - began < BODY_SECONDS + OTHER_CLIENTS_SECONDS
                continue
            assert first == b"HTTP/1.1 408"
            return


def test_an_address_with_too_many_unfinished_bodies_loses_the_oldest(api: ApiProcess, merchant: Caller) -> None:
    with crowd("127.0.0.1", api.port) as slow:
        oldest = slow.open(1, UNFINISHED_BODY)[0]
        oldest.settimeout(SECONDS)
        get(api.port, b"/health/live")  # by now the server has read the unfinished body
        slow.open(limits.RECEIVING_PER_ADDRESS_MAX, UNFINISHED_BODY)
        response = read_response(oldest)
        assert (response.status, response.code) == (429, "rate_limited")
        assert response.headers["retry-after"] == "1"
        expect_service(api, merchant)


def test_a_file_from_an_unauthorized_caller_is_not_received(api: ApiProcess, merchant: Caller) -> None:
    head = b"POST /v1/statements?provider=simulated HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
    head += b"Content-Length: 1000000\r\n"
    for authorization, status in ((b"", 401), (b"Authorization: Bearer %s\r\n" % str(merchant.token).encode(), 403)):
        with crowd("127.0.0.1", api.port) as slow:
            connection = slow.open(1, head + authorization + b"\r\ncharge_id")[0]
            connection.settimeout(SECONDS)
            assert read_response(connection).status == status


def test_a_long_response_is_complete(api: ApiProcess) -> None:
    response = get(api.port, ASSET)
    assert len(response.body) == int(response.headers["content-length"]) > 2 * limits.WHOLE_RESPONSE_BYTES


def test_clients_that_do_not_read_occupy_neither_threads_nor_much_memory(api: ApiProcess, merchant: Caller) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % ASSET
    worker = next(child for child in psutil.Process(listener(api.port)).children() if child.num_threads() > 4)
    with crowd("127.0.0.1", api.port) as slow:
        before = worker.memory_info().rss
        readers = slow.open(100, request, receive_buffer_bytes=4096)
        expect_service(api, merchant)
        assert worker.memory_info().rss - before < 100 * 2**20
        assert get(api.port, ASSET).status == 200
        oldest = readers[0]
        oldest.settimeout(SECONDS)
        received = 0
        while data := oldest.recv(2**20):
            received += len(data)
        assert received < len(get(api.port, ASSET).body)
    expect_service(api, merchant)


def listener(port: int) -> int:
    """Return the process that listens on a port, or its parent."""
    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
            parent = psutil.Process(found.pid).parent()
            return parent.pid if parent is not None and "granian" in " ".join(parent.cmdline()) else found.pid
    raise LookupError(port)


def test_an_unfinished_request_is_completed_after_sigterm(merchant: Caller, tmp_path: Path) -> None:
    request = payment(merchant.token)
    with (
        api_process(tmp_path / "api.log") as api,
        socket.create_connection(("127.0.0.1", api.port), timeout=SECONDS) as connection,
    ):
        connection.sendall(request[:-5])
        requests.get(f"{api.url}/health/live", timeout=SECONDS)
        psutil.Process(listener(api.port)).send_signal(signal.SIGTERM)
        eventually(lambda: "hutting down" in api.log.read_text(), what="the end of the API")
        connection.sendall(request[-5:])
        assert read_response(connection).status == 201
    assert count("transactions") == 1
