"""Log-ins from given addresses, and fixtures with low limits; modules import the fixtures that they use."""

from typing import cast

import pytest

from gateway.api.access import rate_limits
from gateway.api.access.sign_in import DEVICE_HEADER
from gateway.domain.merchants import login_limits
from gateway.domain.merchants.rate_limits import Limit
from tests.api.conftest import PASSWORD, Caller, Response

EMAIL = "ada@example.com"
ATTACKER, OWNER = "192.0.2.66", "198.51.100.7"
SMALL = {
    "FIRST_TRIES": Limit(per_second=2 / 3_600, burst=2),
    "ACCOUNT": Limit(per_second=4 / 600, burst=4),
    "ADDRESS": Limit(per_second=10 / 600, burst=10),
    "DEVICE": Limit(per_second=3 / 600, burst=3),
}


@pytest.fixture
def no_leases() -> None:
    rate_limits.forget()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits, so that a few attempts reach them."""
    for name, limit in SMALL.items():
        monkeypatch.setattr(login_limits, name, limit)


@pytest.fixture
def account(anonymous: Caller) -> Response:
    """Register the account of `EMAIL` from a device, which is then known."""
    body = {"email": EMAIL, "password": PASSWORD, "business_name": "Ada's Bookshop"}
    response = anonymous.post("/auth/register", body, environ_base={"REMOTE_ADDR": OWNER})
    assert response.status_code == 201
    return response


def try_to_log_in(
    caller: Caller, address: str, password: str = "wrong", *, email: str = EMAIL, **headers: str
) -> Response:
    """Log in from `address`; the names in `headers` have underscores instead of hyphens."""
    body = {"email": email, "password": password}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    client = caller.app.test_client(use_cookies=False)
    return cast(Response, client.post("/auth/login", json=body, headers=sent, environ_base={"REMOTE_ADDR": address}))


def tries(caller: Caller, address: str, times: int, **options: str) -> list[int]:
    return [try_to_log_in(caller, address, **options).status_code for _ in range(times)]


def device_token_of(response: Response) -> str:
    return response.headers[DEVICE_HEADER]
