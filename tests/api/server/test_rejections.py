"""Reject ambiguous requests before they reach the application."""

import pytest

from tests.api.conftest import Caller
from tests.api.process import ApiProcess
from tests.api.server.raw import ask, get, payment
from tests.helpers.factories import count


@pytest.mark.parametrize("path", [b"//metrics", b"/%6detrics", b"/v1/../metrics", b"/%2e/metrics"])
def test_the_server_serves_metrics_under_one_path_only(running_api: ApiProcess, path: bytes) -> None:
    assert get(running_api.port, b"/metrics").status == 200
    response = get(running_api.port, path)
    assert (response.status, response.code) == (404, "not_found")
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"


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
def test_the_server_rejects_ambiguous_headers(running_api: ApiProcess, headers: bytes) -> None:
    response = get(running_api.port, b"/health/live", headers)
    assert (response.status, response.code) == (400, "malformed_request")


def test_a_payment_with_two_idempotency_keys_is_rejected(running_api: ApiProcess, merchant: Caller) -> None:
    first_key = b"Idempotency-Key: a\r\n"

    response = ask(running_api.port, payment(merchant.token, first_key + b"Idempotency-Key: b\r\n"))
    assert (response.status, response.code) == (400, "malformed_request")
    assert count("transactions") == 0
    assert ask(running_api.port, payment(merchant.token, first_key + b"Idempotency_Key: b\r\n")).status == 201


def test_requests_that_do_not_reach_the_application_are_counted_and_logged(running_api: ApiProcess) -> None:
    get(running_api.port, b"//nothing", b"Host: x\r\nX-Request-Id: never-seen\r\n")
    assert (
        'http_requests_total{method="GET",route="unmatched",status="404"}'
        in get(running_api.port, b"/metrics").body.decode()
    )
    assert "GET unmatched 404" in running_api.log.read_text()
