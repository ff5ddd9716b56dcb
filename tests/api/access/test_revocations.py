"""The time at which a revocation takes effect in all processes (docs/authentication.md)."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from loguru import logger

from gateway.api.access.revocations import ALL_SECONDS, KNOWN_SECONDS, KnownRevocations, Mark
from gateway.domain.merchants import accounts
from gateway.domain.merchants.accounts import Revocations
from tests.api.conftest import Caller, expect_problem
from tests.api.process import api_process
from tests.helpers.factories import execute
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

HTTP_SECONDS = 10
CONNECTIONS = 24
"""The probability that one of two processes serves all of them is 1 : 8,000,000."""
CLIENT = "cl_unknown"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the monotonic clock by one that only the test moves."""
    now = [time.monotonic()]
    monkeypatch.setattr("gateway.api.access.revocations.time.monotonic", lambda: now[0])
    return now


def process(folder: Path) -> KnownRevocations:
    """Return the revocations that a process of the host with this folder knows."""
    return KnownRevocations(Mark(folder / "revocations.mark"))


def store(token_id: str, age: str = "0 s") -> None:
    """Revoke a token as another host does: the processes of this host are not notified."""
    execute(
        """INSERT INTO revoked_tokens (jti, expires_at, revoked_at)
           VALUES (:jti, now() + interval '1 hour', now() - CAST(:age AS interval))""",
        jti=token_id,
        age=age,
    )


def token_id_of(merchant: Caller) -> str:
    claims: dict[str, Any] = jwt.decode(str(merchant.token), options={"verify_signature": False})
    return str(claims["jti"])


def test_a_revocation_by_one_process_holds_at_once_in_every_process_of_the_host(
    merchant: Caller, tmp_path: Path
) -> None:
    with api_process(tmp_path / "api.log", workers=2, AUTH_RATE_LIMIT_PER_SECOND="0") as api:
        owner = {"Authorization": f"Bearer {merchant.token}"}
        sessions = [requests.Session() for _ in range(CONNECTIONS)]

        def new_token() -> dict[str, str]:
            form = {"grant_type": "client_credentials", **merchant.facts["client"]}
            token = requests.post(f"{api.url}/oauth/token", data=form, timeout=HTTP_SECONDS).json()["access_token"]
            return {"Authorization": f"Bearer {token}"}

        def statuses(headers: dict[str, str]) -> set[int]:
            url = f"{api.url}/v1/transactions"
            return {one.get(url, headers=headers, timeout=HTTP_SECONDS).status_code for one in sessions}

        logged_out, of_deleted_client = new_token(), new_token()
        assert statuses(logged_out) == statuses(of_deleted_client) == {200}
        assert requests.post(f"{api.url}/auth/logout", headers=logged_out, timeout=HTTP_SECONDS).status_code == 204
        assert statuses(logged_out) == {401}
        [client] = requests.get(f"{api.url}/v1/api-clients", headers=owner, timeout=HTTP_SECONDS).json()["data"]
        url = f"{api.url}/v1/api-clients/{client['id']}"
        assert requests.delete(url, headers=owner, timeout=HTTP_SECONDS).status_code == 204
        assert statuses(of_deleted_client) == {401}


@pytest.mark.usefixtures("clock")
def test_a_process_reads_the_revocations_again_after_an_announcement(tmp_path: Path) -> None:
    one, other = process(tmp_path), process(tmp_path)
    assert not other.include("token", CLIENT)

    store("token")
    assert not other.include("token", CLIENT)
    one.announce()
    assert other.include("token", CLIENT)
    assert one.include("token", CLIENT)


@pytest.mark.usefixtures("clock")
def test_a_revocation_during_a_read_is_included_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = process(tmp_path), process(tmp_path)
    read = accounts.revocations

    def read_just_before(connection: Any, within: timedelta) -> Revocations:
        found = read(connection, within)
        store("token")
        one.announce()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "revocations", read_just_before)
        assert not other.include("token", CLIENT)
    assert other.include("token", CLIENT)


def test_without_the_file_only_the_revoking_process_knows_at_once(clock: list[float], tmp_path: Path) -> None:
    nowhere = tmp_path / "not there"
    one, other = process(nowhere), process(nowhere)
    assert not one.include("token", CLIENT)
    assert not other.include("token", CLIENT)

    store("token")
    one.announce()
    assert one.include("token", CLIENT)
    assert not other.include("token", CLIENT)
    clock[0] += KNOWN_SECONDS
    assert other.include("token", CLIENT)


def test_a_mark_file_that_cannot_be_opened_is_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")

    Mark(tmp_path / "not there" / "revocations.mark")

    logger.remove(sink)
    assert [line.partition(", ")[0] for line in lines] == [
        f"WARNING KEYS_DIR: without {tmp_path}/not there/revocations.mark"
    ]


def test_a_process_reads_all_revocations_at_its_start_and_rarely_again(clock: list[float], tmp_path: Path) -> None:
    started = process(tmp_path)
    assert not started.include("token", CLIENT)
    store("token", age="10 minutes")

    clock[0] += KNOWN_SECONDS
    assert not started.include("token", CLIENT)
    assert process(tmp_path).include("token", CLIENT)
    clock[0] += ALL_SECONDS
    assert started.include("token", CLIENT)
    clock[0] += KNOWN_SECONDS
    assert started.include("token", CLIENT)


def test_a_token_that_another_host_revoked_is_rejected_within_two_seconds(merchant: Caller) -> None:
    assert merchant.get("/v1/transactions").status_code == 200
    store(token_id_of(merchant))

    eventually(lambda: merchant.get("/v1/transactions").status_code == 401, within=2, what="the revocation")
    refused = merchant.get("/v1/transactions")
    expect_problem(refused, 401, "invalid_token")
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
