"""Limits of wrong passwords, which do not lock the account (docs/authentication.md)."""

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from gateway.api.access import rate_limits
from gateway.api.access.sign_in import DEVICE_HEADER
from gateway.db import autocommit
from gateway.domain.merchants import login_limits
from gateway.domain.merchants.login_limits import ACCOUNT, ADDRESS, FIRST_TRIES
from gateway.domain.merchants.rate_limits import IDLE_SECONDS, Limit, purge
from gateway.security import passwords, signing_keys
from gateway.telemetry import metrics_text
from tests.api.conftest import PASSWORD, Caller, expect_problem, make_operator
from tests.api.logins import (
    ATTACKER,
    EMAIL,
    OWNER,
    SMALL,
    account,
    device_token_of,
    no_leases,
    small,
    tries,
    try_to_log_in,
)
from tests.api.process import api_process
from tests.helpers.factories import count, execute

__all__ = ["account", "no_leases", "small"]

pytestmark = pytest.mark.usefixtures("database", "no_leases")

HTTP_SECONDS = 10


def test_wrong_passwords_from_one_address_do_not_lock_an_account(
    app: Flask, anonymous: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Limit(per_second=1 / 60, burst=ACCOUNT.burst)  # the real one refills while a busy machine hashes passwords
    monkeypatch.setattr(login_limits, "ACCOUNT", slow)
    make_operator(app, EMAIL)  # the test with two processes covers the owner of a merchant
    known = device_token_of(try_to_log_in(anonymous, OWNER, PASSWORD))
    of_account = FIRST_TRIES.burst + ACCOUNT.burst

    rate_limits.forget()
    statuses = Counter(tries(anonymous, ATTACKER, 95))
    rate_limits.forget()
    execute("DELETE FROM rate_limits WHERE subject LIKE 'address:%'")  # as after a pause of 10 s
    statuses += Counter(tries(anonymous, ATTACKER, 20))

    assert of_account <= statuses[401] <= of_account + 2, statuses
    assert statuses[429] + statuses[401] == 115
    assert try_to_log_in(anonymous, OWNER, PASSWORD).status_code == 200
    assert try_to_log_in(anonymous, "203.0.113.9", PASSWORD).status_code == 200
    assert try_to_log_in(anonymous, ATTACKER, PASSWORD, X_Device_Token=known).status_code == 200
    limited = try_to_log_in(anonymous, ATTACKER, PASSWORD)
    problem = expect_problem(limited, 429, "rate_limited")
    assert DEVICE_HEADER in problem["detail"]
    assert 1 <= int(limited.headers["Retry-After"]) <= 1 / slow.per_second


@pytest.mark.usefixtures("account", "small")
def test_an_attack_from_many_addresses_is_limited_while_a_new_address_can_log_in(anonymous: Caller) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 9)]
    responses = Counter(status for address in addresses for status in tries(anonymous, address, 4))
    first, shared = SMALL["FIRST_TRIES"].burst * len(addresses), SMALL["ACCOUNT"].burst

    assert responses == {401: first + shared, 429: 4 * len(addresses) - first - shared}
    for _ in range(3):
        assert tries(anonymous, addresses[0], 5) == [429] * 5
        assert try_to_log_in(anonymous, OWNER, PASSWORD).status_code == 200


@pytest.mark.usefixtures("account", "small")
def test_an_owner_with_wrong_passwords_during_an_attack_waits_for_a_limited_time(anonymous: Caller) -> None:
    tries(anonymous, ATTACKER, 10)
    assert tries(anonymous, OWNER, 3) == [401, 401, 429]
    wait = int(try_to_log_in(anonymous, OWNER).headers["Retry-After"])
    assert wait <= 1 / SMALL["ACCOUNT"].per_second

    execute(
        "UPDATE rate_limits SET refilled_at = refilled_at - interval '30 minutes' WHERE subject LIKE :own",
        own=f"%{OWNER}",
    )

    assert try_to_log_in(anonymous, ATTACKER, PASSWORD).status_code == 429
    assert try_to_log_in(anonymous, OWNER, PASSWORD).status_code == 200


def outcomes(caller: Caller, email: str, address: str, times: int) -> list[tuple[Any, ...]]:
    """Return everything that a caller sees of several attempts."""
    seen = []
    for _ in range(times):
        response = try_to_log_in(caller, address, email=email, X_Request_Id="same")
        headers = {name: value for name, value in response.headers.items() if name != "Retry-After"}
        seen.append((response.status_code, response.data, headers, "Retry-After" in response.headers))
    return seen


@pytest.mark.usefixtures("account", "small")
def test_an_unknown_email_has_the_response_of_a_known_one(anonymous: Caller) -> None:
    known = outcomes(anonymous, EMAIL, "192.0.2.1", 9)
    unknown = outcomes(anonymous, "nobody@example.com", "192.0.2.2", 9)

    assert known == unknown
    assert [status for status, *_ in known] == [401] * 6 + [429] * 3
    assert count("rate_limits", "subject LIKE '%@example%'") == 0
    assert count("rate_limits", "subject LIKE 'login:%'") == 4  # for each account: its own, and that of an address


@pytest.mark.usefixtures("account", "small")
def test_an_address_that_tries_many_emails_is_limited_and_creates_few_rows(anonymous: Caller) -> None:
    responses = Counter(
        try_to_log_in(anonymous, ATTACKER, email=f"user{number}@example.com").status_code for number in range(30)
    )

    assert responses == {401: SMALL["ADDRESS"].burst, 429: 30 - SMALL["ADDRESS"].burst}
    assert count("rate_limits", "subject LIKE 'login:%'") == SMALL["ADDRESS"].burst
    assert try_to_log_in(anonymous, OWNER, PASSWORD).status_code == 200


@pytest.mark.usefixtures("account", "small")
def test_all_addresses_of_an_ipv6_network_share_a_limit(anonymous: Caller) -> None:
    responses = [try_to_log_in(anonymous, f"2001:db8:0:1::{number:x}").status_code for number in range(1, 9)]

    assert responses == [401] * 6 + [429] * 2
    assert try_to_log_in(anonymous, "2001:db8:0:2::1").status_code == 401


@pytest.mark.usefixtures("account", "small")
def test_correct_passwords_do_not_count(anonymous: Caller) -> None:
    assert {try_to_log_in(anonymous, OWNER, PASSWORD).status_code for _ in range(12)} == {200}
    assert count("rate_limits", f"subject LIKE 'login%' AND tokens < {SMALL['FIRST_TRIES'].burst}") == 0


@pytest.mark.usefixtures("account", "small")
def test_a_shared_address_is_not_locked_by_attempts_for_one_account(anonymous: Caller) -> None:
    assert 429 in tries(anonymous, OWNER, 8)

    assert try_to_log_in(anonymous, OWNER, email="bob@example.com").status_code == 401
    assert ADDRESS.burst > FIRST_TRIES.burst + ACCOUNT.burst
    assert ADDRESS.per_second > FIRST_TRIES.per_second + ACCOUNT.per_second


@pytest.mark.usefixtures("account", "small")
def test_an_unlocked_account_accepts_attempts_immediately(app: Flask, anonymous: Caller) -> None:
    tries(anonymous, ATTACKER, 10)
    assert tries(anonymous, OWNER, 3) == [401, 401, 429]
    tries(anonymous, "192.0.2.1", 1, email="bob@example.com")

    result = app.test_cli_runner().invoke(args=["users", "unlock", "Ada@Example.com"])

    assert result.exit_code == 0, result.output
    assert EMAIL in result.output
    assert try_to_log_in(anonymous, OWNER, PASSWORD).status_code == 200
    assert count("rate_limits", "subject LIKE 'login:%'") == 2  # for this log-in, and for another account
    with autocommit() as connection:
        found = connection.exec_driver_sql(
            "SELECT actor, subject = (SELECT id::text FROM users), detail FROM audit_log WHERE action = 'user.unlocked'"
        ).one()
    assert found[0].startswith("cli")
    assert found[1]
    assert found[2] == {"email": EMAIL, "removed": 3}


@pytest.mark.parametrize(("email", "exit_code"), [("nobody@example.com", 1), ("ada", 2)])
def test_an_unknown_user_cannot_be_unlocked(app: Flask, email: str, exit_code: int) -> None:
    result = app.test_cli_runner().invoke(args=["users", "unlock", email])

    assert result.exit_code == exit_code
    assert email in result.output
    assert count("audit_log") == 0


@pytest.mark.usefixtures("account", "small")
def test_counts_are_purged_when_they_have_no_effect_any_more(anonymous: Caller) -> None:
    tries(anonymous, ATTACKER, 10)
    for number in range(5):
        tries(anonymous, OWNER, 1, email=f"nobody{number}@example.com")
    assert count("rate_limits", "subject LIKE 'login%'") == 9

    execute("UPDATE rate_limits SET refilled_at = now() - make_interval(secs => :idle)", idle=IDLE_SECONDS + 1)
    with autocommit() as connection:
        assert purge(connection, 100) >= 9

    assert count("rate_limits", "subject LIKE 'login%'") == 0


def failures(reason: str) -> float:
    lines = [
        line for line in metrics_text().decode().splitlines() if f'login_failures_total{{reason="{reason}"}}' in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.usefixtures("account", "small")
def test_failed_log_ins_are_counted_by_reason(anonymous: Caller) -> None:
    reasons = ("invalid_credentials", "account_limited", "address_limited", "busy")
    before = {reason: failures(reason) for reason in reasons}

    tries(anonymous, ATTACKER, 8)
    for number in range(6):
        tries(anonymous, ATTACKER, 1, email=f"nobody{number}@example.com")
    with ExitStack() as held:
        for _ in range(passwords.UNKNOWN_DEVICES.places):
            held.enter_context(passwords.verification(passwords.UNKNOWN_DEVICES))
        tries(anonymous, OWNER, 1)

    after = {reason: failures(reason) - before[reason] for reason in reasons}
    assert after == {"invalid_credentials": 10, "account_limited": 2, "address_limited": 2, "busy": 1}


def test_limits_hold_across_processes_and_the_owner_can_log_in_meanwhile(merchant: Caller, tmp_path: Path) -> None:
    email = merchant.facts["user"]["email"]
    environment = {
        "TRUSTED_PROXIES": "1",
        "AUTH_RATE_LIMIT_PER_SECOND": "0",
        "KEYS_DIR": str(signing_keys.prepared_folder()),
    }
    with api_process(tmp_path / "api.log", workers=2, **environment) as api, ThreadPoolExecutor(4) as threads:

        def log_in(address: str, password: str, headers: Mapping[str, str] | None = None) -> requests.Response:
            return requests.post(
                f"{api.url}/auth/login",
                data=json.dumps({"email": email, "password": password}),
                headers={"Content-Type": "application/json", "X-Forwarded-For": address, **(headers or {})},
                timeout=HTTP_SECONDS,
            )

        first = log_in(OWNER, PASSWORD)
        known = {DEVICE_HEADER: first.headers[DEVICE_HEADER]}

        def guess(_: int) -> int:
            return log_in(ATTACKER, "wrong").status_code

        guesses = list(threads.map(guess, range(FIRST_TRIES.burst + ACCOUNT.burst + 30)))
        assert set(guesses) <= {401, 429, 503}
        assert guesses.count(401) <= FIRST_TRIES.burst + ACCOUNT.burst + 3
        assert guesses[-1] == 429
        attack = [threads.submit(guess, number) for number in range(60)]
        responses = [log_in(OWNER, PASSWORD), log_in("203.0.113.9", PASSWORD), log_in(ATTACKER, PASSWORD, known)]
        assert [response.status_code for response in responses] == [200] * 3
        assert {future.result() for future in attack} <= {401, 429}
        assert log_in(ATTACKER, PASSWORD).status_code == 429
