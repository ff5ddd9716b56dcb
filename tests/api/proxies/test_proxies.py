"""nginx and HAProxy with the files of ops/: which requests reach the API, and with which client address."""

from pathlib import Path

import pytest
import requests

from gateway.api.http.request_content import BODY_MAX_BYTES
from gateway.api.resources.statements import STATEMENT_MAX_BYTES
from tests.api.conftest import Caller
from tests.api.process import ApiProcess
from tests.api.proxies.conftest import NAMES, Proxy, proxy_process
from tests.api.server.raw import SECONDS, ask, get, payment
from tests.attacks.connections import SILENT, SLOW_HEAD, UNFINISHED_BODY, crowd
from tests.helpers.factories import count
from tests.helpers.statements import csv_of, line
from tests.helpers.waiting import eventually, free_port

LOGIN = b'{"email": "nobody@example.com", "password": "wrong"}'
TRIES = 40
"""More requests than the API's limit per address allows at once."""
ATTACKER, OTHER = "127.0.0.2", "127.0.0.3"
OTHER_CLIENTS_SECONDS = 5.0
PER_ADDRESS_MAX = 256


def login(proxy: Proxy, source: str, *headers: bytes) -> int:
    """Return the status of a log-in with a wrong password from the address `source`."""
    lines = [b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(LOGIN), *headers]
    return ask(proxy.port, b"POST /auth/login HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + LOGIN, source).status


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"X_Forwarded_For", b"x_forwarded-for", b"X-Forwarded_For"])
@pytest.mark.usefixtures("database")
def test_no_header_of_a_client_bypasses_the_limit_by_address(proxy: Proxy, name: bytes) -> None:
    statuses = [login(proxy, ATTACKER, name + b": 198.51.100.%d" % number) for number in range(TRIES)]
    assert 429 in statuses
    assert login(proxy, OTHER) == 401


@pytest.mark.parametrize(
    "path", [b"/metrics", b"//metrics", b"/%6detrics", b"/./metrics", b"/v1/../metrics", b"/%2fmetrics"]
)
def test_metrics_are_not_public(proxy: Proxy, path: bytes) -> None:
    assert get(proxy.api.port, b"/metrics").status == 200
    response = get(proxy.port, path)
    assert response.status in (400, 404)
    assert b"http_requests_total" not in response.body


@pytest.mark.parametrize("path", [b"/v1//transactions", b"/v1/%74ransactions", b"/v1/x/../transactions", b"/docs/"])
def test_the_api_receives_a_path_unchanged(proxy: Proxy, path: bytes) -> None:
    response = get(proxy.port, path)
    assert (response.status, response.code) == (404, "not_found")


def pay(proxy: Proxy, merchant: Caller, size: int = 0, **headers: str) -> requests.Response:
    """Post a payment, with a body of at least `size` bytes."""
    body = b'{"amount": 1000, "currency": "USD"}'.ljust(size)
    headers = {"Authorization": f"Bearer {merchant.token}", "Content-Type": "application/json", **headers}
    return requests.post(f"{proxy.url}/v1/transactions", data=body, headers=headers, timeout=SECONDS)


def test_payments_are_forwarded_and_errors_are_problem_documents(proxy: Proxy, merchant: Caller) -> None:
    assert pay(proxy, merchant, BODY_MAX_BYTES).status_code == 201
    for size in (BODY_MAX_BYTES + 1, 200_000):
        response = pay(proxy, merchant, size)
        assert response.status_code == 413
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "body_too_large"
    assert count("transactions") == 1


def test_a_payment_with_two_idempotency_keys_is_rejected(proxy: Proxy, merchant: Caller) -> None:
    request = payment(merchant.token, b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n")
    assert ask(proxy.port, request).status == 400
    assert count("transactions") == 0


def test_the_request_id_of_a_client_is_forwarded(proxy: Proxy) -> None:
    response = requests.get(f"{proxy.url}/health/live", headers={"X-Request-Id": "mine"}, timeout=SECONDS)
    assert response.headers["X-Request-Id"] == "mine"


def test_a_statement_of_ten_mebibytes_is_forwarded(proxy: Proxy, operator: Caller) -> None:
    lines = csv_of(*(line(charge_id=f"ch_{number}") for number in range(100)))
    content = lines.ljust(STATEMENT_MAX_BYTES - 1, b"\n")
    response = requests.post(
        f"{proxy.url}/v1/statements?provider=simulated",
        data=content,
        headers={"Authorization": f"Bearer {operator.token}", "Content-Type": "text/csv"},
        timeout=60,
    )
    assert response.status_code == 201, response.text


def test_many_slow_clients_of_the_proxy_do_not_block_others(proxy: Proxy, merchant: Caller) -> None:
    with crowd("127.0.0.1", proxy.port, source=ATTACKER) as slow:
        slow.open(100, SILENT)
        slow.open(50, SLOW_HEAD)
        slow.open(50, UNFINISHED_BODY)
        assert requests.get(f"{proxy.url}/health/live", timeout=OTHER_CLIENTS_SECONDS).status_code == 200
        assert pay(proxy, merchant).status_code == 201


def test_the_number_of_connections_per_address_is_limited(proxy: Proxy) -> None:
    kind = UNFINISHED_BODY if proxy.name == "nginx" else SILENT  # nginx counts those with a complete head
    with crowd("127.0.0.1", proxy.port, source=ATTACKER) as slow:
        slow.open(PER_ADDRESS_MAX, kind)
        further = slow.open(20, kind)

        def refused() -> bool:
            for connection in further:
                connection.settimeout(0.1)
                try:
                    if connection.recv(12) in (b"", b"HTTP/1.1 429"):
                        return True
                except TimeoutError:
                    continue
                except ConnectionError:
                    return True
            return False

        eventually(refused, what="a refused connection")
        assert get(proxy.port, b"/health/live", source=OTHER).status == 200


@pytest.mark.parametrize("name", NAMES)
def test_an_unavailable_api_has_a_problem_document(name: str, tmp_path: Path) -> None:
    away = ApiProcess(f"http://127.0.0.1:{free_port()}", tmp_path / "none.log")
    with proxy_process(name, tmp_path, away) as proxy:
        response = get(proxy.port, b"/health/live")
        assert (response.status, response.code) == (503, "overloaded")
        assert response.headers["retry-after"] == "2"
