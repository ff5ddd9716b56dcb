"""Log-ins from known devices, which attempts from elsewhere do not limit (docs/authentication.md)."""

from contextlib import ExitStack

import pytest
from flask import Flask

from gateway.api.access import rate_limits
from gateway.api.access.sign_in import DEVICE_COOKIE, DEVICE_HEADER
from gateway.config import settings
from gateway.domain.merchants.rate_limits import Limit
from gateway.security import passwords
from gateway.security.passwords import hash_password
from tests.api.conftest import PASSWORD, Caller, Response, expect_problem
from tests.api.logins import (
    ATTACKER,
    OWNER,
    SMALL,
    account,
    device_token_of,
    no_leases,
    small,
    tries,
    try_to_log_in,
)
from tests.helpers.factories import count, execute

__all__ = ["account", "no_leases", "small"]

pytestmark = pytest.mark.usefixtures("database", "no_leases")


def limit_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit each address to one request per second, with a burst of three."""
    changed = settings().model_copy(update={"auth_rate_limit_per_second": 1, "auth_rate_limit_burst": 3})
    monkeypatch.setattr(rate_limits, "settings", lambda: changed)
    rate_limits.forget()


def test_a_known_device_can_log_in_from_an_address_above_its_limit(
    anonymous: Caller, account: Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_addresses(monkeypatch)
    monkeypatch.setattr(rate_limits, "DEVICE_LOGINS", Limit(per_second=0.01, burst=2))
    assert 429 in tries(anonymous, OWNER, 5)
    known = {DEVICE_HEADER.replace("-", "_"): device_token_of(account)}

    responses = [try_to_log_in(anonymous, OWNER, PASSWORD, **known).status_code for _ in range(3)]

    assert responses == [200, 200, 429]  # above its own limit, the device is treated as an unknown one


@pytest.mark.usefixtures("small")
def test_wrong_passwords_from_a_known_device_count_only_for_this_device(anonymous: Caller, account: Response) -> None:
    other = device_token_of(try_to_log_in(anonymous, OWNER, PASSWORD))
    stolen = {DEVICE_HEADER.replace("-", "_"): device_token_of(account)}
    as_known = SMALL["DEVICE"].burst
    as_unknown = SMALL["FIRST_TRIES"].burst + SMALL["ACCOUNT"].burst

    assert tries(anonymous, ATTACKER, 12, **stolen) == [401] * (as_known + as_unknown) + [429] * (
        12 - as_known - as_unknown
    )
    assert try_to_log_in(anonymous, ATTACKER, PASSWORD, X_Device_Token=other).status_code == 200


@pytest.mark.usefixtures("small")
def test_a_device_token_is_valid_only_for_its_account_and_grants_no_access(
    app: Flask, anonymous: Caller, account: Response
) -> None:
    other = {"email": "eve@example.com", "password": PASSWORD, "business_name": "Eve's"}
    of_eve = device_token_of(anonymous.post("/auth/register", other))

    responses = tries(anonymous, ATTACKER, 8, X_Device_Token=of_eve)

    assert responses == [401] * 6 + [429] * 2
    for token in (of_eve, device_token_of(account)):
        expect_problem(Caller(app, token).get("/v1/transactions"), 401, "invalid_token")


def test_a_device_of_another_account_is_also_limited_by_address(
    anonymous: Caller, account: Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_addresses(monkeypatch)
    known = {DEVICE_HEADER.replace("-", "_"): device_token_of(account)}

    responses = tries(anonymous, ATTACKER, 5, email="bob@example.com", **known)

    assert 429 in responses


@pytest.mark.usefixtures("small")
def test_a_device_is_known_until_the_password_changes(anonymous: Caller, account: Response) -> None:
    tries(anonymous, ATTACKER, 10)
    known = {DEVICE_HEADER.replace("-", "_"): device_token_of(account)}
    assert try_to_log_in(anonymous, ATTACKER, PASSWORD, **known).status_code == 200

    execute("UPDATE users SET password_hash = :hash", hash=hash_password("another long password"))

    assert try_to_log_in(anonymous, ATTACKER, "another long password", **known).status_code == 429


@pytest.mark.usefixtures("small")
def test_a_cookie_is_equivalent_to_the_header_and_renewed_by_each_log_in(anonymous: Caller, account: Response) -> None:
    tries(anonymous, ATTACKER, 10)
    token = device_token_of(account)
    cookie = account.headers["Set-Cookie"]

    assert cookie.partition(";")[0] == f"{DEVICE_COOKIE}={token}"
    attributes = cookie.partition(";")[2].replace(" ", "").split(";")
    assert set(attributes) == {"Max-Age=7776000", "Path=/auth/login", "HttpOnly", "Secure", "SameSite=Strict"}
    response = try_to_log_in(anonymous, ATTACKER, PASSWORD, Cookie=f"other=1; {DEVICE_COOKIE}={token}")
    assert response.status_code == 200
    renewed = device_token_of(response)
    assert renewed != token
    assert try_to_log_in(anonymous, ATTACKER, PASSWORD, X_Device_Token=renewed).status_code == 200
    both = {DEVICE_HEADER.replace("-", "_"): "not a token", "Cookie": f"{DEVICE_COOKIE}={renewed}"}
    assert try_to_log_in(anonymous, ATTACKER, PASSWORD, **both).status_code == 200


@pytest.mark.usefixtures("account", "small")
@pytest.mark.parametrize("token", ["", "x", "é", "A" * 5_000, "gAAAAA" + "B" * 178])
def test_an_invalid_device_token_is_ignored(anonymous: Caller, token: str) -> None:
    assert try_to_log_in(anonymous, OWNER, PASSWORD, X_Device_Token=token).status_code == 200
    assert tries(anonymous, ATTACKER, 8, X_Device_Token=token) == [401] * 6 + [429] * 2


def test_a_known_device_can_log_in_while_all_verifications_of_unknown_ones_are_in_use(
    anonymous: Caller, account: Response
) -> None:
    with ExitStack() as held:
        for _ in range(passwords.UNKNOWN_DEVICES.places):
            held.enter_context(passwords.verification(passwords.UNKNOWN_DEVICES))
        refused = try_to_log_in(anonymous, OWNER, PASSWORD)
        known = try_to_log_in(anonymous, OWNER, PASSWORD, X_Device_Token=device_token_of(account))

    expect_problem(refused, 503, "temporarily_unavailable")
    assert known.status_code == 200
    assert count("rate_limits", "subject LIKE 'login:%'") == 0  # a password that was not checked does not count
